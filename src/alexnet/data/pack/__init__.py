"""The pack: all images of a source, decoded and resized once, in one memory-mapped file."""
