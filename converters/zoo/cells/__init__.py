"""The search space of networks made of repeated cells: operations, supernet, genotype and the network it describes."""
