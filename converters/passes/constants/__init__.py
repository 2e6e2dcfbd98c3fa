"""Constants of a graph: folded, bounded in size, and told from weights."""
