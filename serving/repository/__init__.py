"""A Triton model repository as plain data: configurations, manifests, graph signatures, and their validation."""
