"""Local response normalization (LRN): across channels (section 3.3), and over positions (the 2012 code alone)."""

from .response import response_norm, spatial_norm

__all__ = ["response_norm", "spatial_norm"]
