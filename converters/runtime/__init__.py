"""Run any model on NumPy arrays (ONNX Runtime, torch, Triton), measure parity, find out which batches it supports."""
