"""The folder of a run: its files (run.py), checkpoints, history, and what may change when it resumes."""
