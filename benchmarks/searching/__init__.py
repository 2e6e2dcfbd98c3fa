"""Room: what an architecture search is worth: a planted space, and cells on drawn people."""
