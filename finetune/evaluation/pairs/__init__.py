"""Verification: the scores of pairs, and what is measured of them."""
