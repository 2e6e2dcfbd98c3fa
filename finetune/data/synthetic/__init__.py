"""Drawn people and faces, the data of the demo and the tests."""
