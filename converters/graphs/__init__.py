"""Room: a graph as protobuf messages: its nodes, constants and shapes, read without torch, onnx-ir or a runtime."""
