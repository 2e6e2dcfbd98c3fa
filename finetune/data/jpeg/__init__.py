"""JPEG files: their headers, and a second decoder."""
