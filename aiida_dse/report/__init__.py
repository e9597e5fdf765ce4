"""Tables, figures and progress displays, made from results only."""
