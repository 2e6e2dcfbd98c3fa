"""A version on a running server: tried, compared, switched to, and what the server makes of it."""
