"""Stored uint8 pixels → what the network sees (sections 2 and 4.1)."""
