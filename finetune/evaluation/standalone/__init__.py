"""Pairs of a data set measured by several scores, with masks drawn on some images, as `rtool evaluate` does it."""
