"""The losses, pure functions over tensors, and the heads that own their parameters."""
