"""Decoded images kept on disk between runs."""
