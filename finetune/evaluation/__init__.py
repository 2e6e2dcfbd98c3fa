"""Retrieval and verification of any model on any data set."""
