"""Triton back ends and models in Python, which run inside the server and import nothing of rtool."""
