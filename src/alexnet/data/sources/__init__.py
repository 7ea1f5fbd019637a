"""Sources of labeled images: a file for each kind."""
