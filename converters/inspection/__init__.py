"""Room: what is in a model file, read without torch, onnx-ir or a runtime, so that `rtool inspect` answers at once."""
