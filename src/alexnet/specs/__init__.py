"""Declarations of networks, recipes and settings, as frozen dataclasses of the standard library alone."""
