"""Weights of other frameworks, read and written.

`detection` tells the format of a file, and each format has a file that reads and writes it; all readers return a
`WeightsFile`. `matching` finds the network that the tensors belong to. `importing` and `exporting` do it all.

Readers raise ValueError for a file that is damaged, refused or of other content, and writers for a network that the
format cannot express; both raise ImportError if a package that they need is not installed.
"""
