"""Passes from ONNX graph to ONNX graph: constant folding, shapes, batch, preprocessing, simplification, targets."""
