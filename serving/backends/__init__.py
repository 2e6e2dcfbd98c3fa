"""Python-based Triton backends that run inside the server, not inside rtool."""
