"""`rtool gallery` and `rtool adapt`."""
