"""Room: onnx's reference evaluator, with the operators that it computes wrongly by their definition."""
