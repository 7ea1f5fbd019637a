"""Speed on this machine, next to other software for the same task."""
