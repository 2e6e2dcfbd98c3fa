"""Data sets, samplers and augmentations."""
