"""Networks as modules: building, initial weights, and the folder that holds a trained one."""
