"""Tables, figures and progress lines made from results; nothing here computes."""
