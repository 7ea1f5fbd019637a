"""Top-1 and top-5 errors by the center crop and by ten-crop, and of ensembles (section 6)."""
