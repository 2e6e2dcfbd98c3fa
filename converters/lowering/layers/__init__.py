"""Operators that become torch layers or their functions: convolutions, pooling, normalisations, attention."""
