"""Study: the converter beside its rivals, node by node, exporter by exporter."""
