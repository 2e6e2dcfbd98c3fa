"""Find, start, watch and stop a Triton server."""
