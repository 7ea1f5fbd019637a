"""Section 5: the update rule, the loop, and what it writes down."""
