"""Sections 2 and 4.1: sources, packing, statistics, augmentation, batches."""
