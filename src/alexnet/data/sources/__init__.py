"""Sources of labeled images: a file per data layout.

`labeled_source` (data/labels/assignment.py) builds a `Source` from files, `array_source` (arrays.py) from files of
arrays. What is damaged or missing is a ValueError that names the file.
"""
