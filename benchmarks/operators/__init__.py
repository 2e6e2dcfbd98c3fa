"""What converted operators compute beside float64: their gradients and their rounding errors."""
