"""ONNX in, ONNX out: constant folding, shape inference, batch, embedded preprocessing, simplification, targets."""
