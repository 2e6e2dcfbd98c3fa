"""Operators that work entry by entry: activations, arithmetic, logic, types."""
