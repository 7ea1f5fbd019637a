"""What is fast and how fast, on the machine at hand, beside what others would use."""
