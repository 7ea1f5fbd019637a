"""Section 6.1 and the figures: looking inside a trained network."""
