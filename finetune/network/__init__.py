"""The network being trained: backbone, heads, weights, preprocessing, memory."""
