"""Models at rest: the bundle format, opening whatever MODEL names, inspect, `onnx2torch`."""
