"""Operators that move, choose, count or reduce entries, and control flow."""
