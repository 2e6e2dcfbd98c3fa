"""Element-wise operators: activations, arithmetic, logic, casts."""
