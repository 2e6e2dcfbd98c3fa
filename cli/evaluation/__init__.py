"""`rtool evaluate`."""
