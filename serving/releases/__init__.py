"""What releases of Triton lack and can read."""
