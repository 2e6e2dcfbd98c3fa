"""Publish a version into a repository, roll it out and back."""
