"""Section 6: errors, views, prediction."""
