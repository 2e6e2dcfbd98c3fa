"""Drills and costs of the serving side: `make bench-serving`."""
