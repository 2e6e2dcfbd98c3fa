"""What a value of the configuration may look like, and what a path in it means."""
