"""Room: the command line. Parses, calls one function, renders its result."""
