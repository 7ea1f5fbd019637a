"""Response normalization: section 3.3, across channels, and the 2012 code's unpublished one over places."""

from .response import response_norm, spatial_norm

__all__ = ["response_norm", "spatial_norm"]
