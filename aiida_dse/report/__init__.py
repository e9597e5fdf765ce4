"""Tables, figures and progress lines, made from results alone."""
