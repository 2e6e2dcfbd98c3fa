"""Stored models: the bundle format, opening every kind of MODEL, `inspect`, `onnx2torch`."""
