"""`rtool deploy` and `rtool serve`."""
