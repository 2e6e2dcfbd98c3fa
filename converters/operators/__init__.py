"""Room: which ONNX operators convert, as plain data; nothing here loads torch."""
