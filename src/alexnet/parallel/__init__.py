"""Training on several processes: data parallel, the two towers of section 3.2 and the hybrid of 2014."""

import os

ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, and others like it, tell a process."""


def is_launched() -> bool:
    """Whether torchrun, or another launcher with the same environment variables, started this process."""
    return all(name in os.environ for name in ENVIRONMENT)
