"""What is wrong with a run (causes.py), when it is said, and the layer statistics behind it (layers.py)."""
