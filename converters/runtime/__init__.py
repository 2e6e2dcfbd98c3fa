"""Run any model on NumPy arrays (ONNX Runtime, torch) and compare: runners, parity, probes, which batch it takes."""
