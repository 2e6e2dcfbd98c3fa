"""Architectures that rtool can build by name, one paper per file, listed in `registry.py`."""
