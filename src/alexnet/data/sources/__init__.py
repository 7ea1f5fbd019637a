"""Labeled images where they lie: a file for each kind of source."""
