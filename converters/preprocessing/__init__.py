"""Room: which preprocessing a model expects, decided in one place, without torch, onnx-ir or a runtime."""
