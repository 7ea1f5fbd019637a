"""Labeled images, from wherever they are stored to batches of uint8 (section 2)."""
