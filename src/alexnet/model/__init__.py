"""Networks as modules: building, initial weights, and the folder that holds a trained one."""

from .network import AlexNet, create

__all__ = ["AlexNet", "create"]
