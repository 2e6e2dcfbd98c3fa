"""A Triton model repository as plain data: configuration, manifest, signature, validation."""
