"""Operators that reshape, select, count, reduce or transform elements, and control flow."""
