"""Fold BatchNorm away, restore it behind fused layers, calibrate what was restored."""
