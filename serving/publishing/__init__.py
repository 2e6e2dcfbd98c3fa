"""Publish a version into a repository, load it on a running server, and roll back."""
