"""Fold BatchNorm into its layer, and restore it behind fused layers with calibrated statistics."""
