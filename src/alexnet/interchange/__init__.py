"""Weights of other frameworks, read and written.

Each format has a file that reads and writes it; all readers return a `WeightsFile`. `described` puts together the
network that a file describes, and `matching` finds the one that mere tensors belong to. `importing`, which tells the
format of a file, and `exporting` do it all.

Readers raise ValueError for a file that is damaged, refused or of other content, and writers for a network that the
format cannot express; both raise ImportError if a package that they need is not installed.
"""
