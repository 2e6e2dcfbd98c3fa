"""Lower ONNX nodes to torch: one file per family of operators, in elementwise/, layers/ and tensors/."""
