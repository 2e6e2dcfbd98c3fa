"""Random genotypes: what a search must beat."""

from __future__ import annotations

import numpy as np

from .genotype import Genotype, Nodes, edges_of_node
from .space import SearchSpace

__all__ = ["random_genotype"]


def random_genotype(space: SearchSpace, generator: np.random.Generator) -> Genotype:
    """A genotype of the space: each node reads states drawn without replacement, by operations drawn uniformly.

    `none` is not drawn: a found cell has no edge without an operation.
    """
    return Genotype(space, _nodes(space, generator), _nodes(space, generator), {"source": "random"})


def _nodes(space: SearchSpace, generator: np.random.Generator) -> Nodes:
    operations = [operation for operation in space.operations if operation != "none"]
    nodes = []
    for node in range(space.nodes):
        states = sorted(generator.choice(2 + node, edges_of_node(space, node), replace=False).tolist())
        nodes.append(tuple((operations[int(generator.integers(len(operations)))], int(state)) for state in states))
    return tuple(nodes)
