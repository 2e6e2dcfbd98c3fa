"""Room: what a teacher is worth."""
