"""Inputs and outputs of the files that are served, ONNX and TorchScript."""
