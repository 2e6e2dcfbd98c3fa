"""From the weights of a supernet's edges to a genotype, and back.

Per edge the strongest operation other than `none`; per node the `inputs_per_node` edges whose strongest is strongest
(DARTS, arXiv:1806.09055, section 2.4). Where too many skip connections win, the weakest give way to the next best, one
after the other, as in P-DARTS (Chen et al., ICCV 2019, arXiv:1904.12760, section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....errors import InputError
from .genotype import Edge, Genotype, Nodes
from .space import SearchSpace

__all__ = ["genotype_weights", "parse_genotype"]


def parse_genotype(
    space: SearchSpace,
    normal: ArrayLike,
    reduce: ArrayLike,
    *,
    most_skips: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Genotype:
    """The genotype of the strongest operations and edges; of equal ones, that of the lower number.

    Args:
        space: what the weights are of.
        normal: weights of the normal cells [edges, operations], such as softmaxed alphas.
        reduce: those of the reduction cells.
        most_skips: skip connections that a normal cell may have; None: any number.
        facts: what the genotype states beside its cells.

    Raises:
        InputError: weights of another shape or that are not finite; fewer skips asked for than the space allows.
    """
    chosen = _strongest(space, _checked(space, "normal", normal), most_skips)
    return Genotype(space, chosen, _strongest(space, _checked(space, "reduce", reduce), None), dict(facts or {}))


def genotype_weights(genotype: Genotype) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights of 1 at a genotype's edges and 0 elsewhere, float32 [edges, operations], for normal and reduction cells.

    In a supernet they give the discrete network with the supernet's own weights.
    """
    return _ones(genotype.space, genotype.normal), _ones(genotype.space, genotype.reduce)


def _ones(space: SearchSpace, nodes: Nodes) -> NDArray[np.float32]:
    weights = np.zeros((space.edges, len(space.operations)), np.float32)
    for numbers, edges in zip(space.node_edges, nodes, strict=True):
        for operation, state in edges:
            weights[numbers[state], space.operations.index(operation)] = 1
    return weights


def _checked(space: SearchSpace, name: str, weights: ArrayLike) -> NDArray[np.float64]:
    """A copy of the weights, with `none` below everything."""
    array = np.array(weights, np.float64)
    if array.shape != (space.edges, len(space.operations)):
        raise InputError(
            f"weights of the {name} cell: expected [{space.edges}, {len(space.operations)}], got {list(array.shape)}"
        )
    if not np.isfinite(array).all():
        raise InputError(f"weights of the {name} cell: not finite; the search diverged, use a lower learning rate")
    if "none" in space.operations:
        array[:, space.operations.index("none")] = -np.inf
    return array


def _strongest(space: SearchSpace, weights: NDArray[np.float64], most_skips: int | None) -> Nodes:
    """The chosen edges of each node; `weights` is changed."""
    while True:
        nodes = tuple(_node(space, weights, numbers) for numbers in space.node_edges)
        skips = [
            numbers[state]
            for numbers, edges in zip(space.node_edges, nodes, strict=True)
            for operation, state in edges
            if operation == "skip"
        ]
        if most_skips is None or len(skips) <= most_skips:
            return nodes
        if set(space.operations) <= {"none", "skip"}:
            raise InputError(f"most_skips {most_skips}: the space has no operation but skip; add one")
        skip = space.operations.index("skip")
        weakest = min(reversed(skips), key=lambda edge: weights[edge, skip])
        weights[weakest, skip] = -np.inf


def _node(space: SearchSpace, weights: NDArray[np.float64], numbers: range) -> tuple[Edge, ...]:
    best = weights[numbers.start : numbers.stop].argmax(axis=1)  # the first of equal ones
    strength = weights[np.arange(numbers.start, numbers.stop), best]
    kept = sorted(np.argsort(-strength, kind="stable")[: space.inputs_per_node].tolist())
    return tuple((space.operations[int(best[state])], int(state)) for state in kept)
