"""Retrieval: how a gallery is ranked, and what is measured of the ranks."""
