"""What matching knows that an embedding does not, on faces behind drawn masks; and what it costs."""
