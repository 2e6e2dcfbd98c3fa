"""Writes `model.py`, the readable source of a converted module."""
