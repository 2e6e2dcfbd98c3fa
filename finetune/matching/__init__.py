"""Local matching of feature maps: the QAConv matcher, the visibility head, and the losses that teach them."""
