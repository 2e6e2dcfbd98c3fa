"""The server as a service: which one runs, in the foreground or detached, and what became of it."""
