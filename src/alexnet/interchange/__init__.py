"""Weights of other frameworks, read and written: a file per format, and what they have in common."""
