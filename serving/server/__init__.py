"""A running Triton: found, started, watched, stopped."""
