"""Study: the converter compared with others and with ONNX's conformance cases, per exporter and network."""
