"""Data sets on disk, one format per file, and the table that recognises them."""
