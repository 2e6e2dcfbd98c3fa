"""Average linkage: the two most similar groups become one, again and again; similarity is the mean cosine of all pairs.

Groups that hold a pair which cannot be one person are never joined. The similarities of the merges never rise (average
linkage is reducible: Bruynooghe 1977; Murtagh 1983), so that one tree holds the clusters of every threshold: `cut`
applies the merges at or above it. For the same reason what a group's nearest one was is a bound for all that follow,
and only the group with the largest bound is looked at again (Müllner 2011, arXiv:1109.2378, section 3.1).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .nearest_groups import NearestGroups

__all__ = ["Tree", "average_linkage", "cut"]

Integers = NDArray[np.int64]
Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """Merges of N items; each joins the groups that hold the items `first` and `second`."""

    count: int
    first: Integers
    """int64 [M], the lowest item of one group."""
    second: Integers
    """int64 [M], the lowest item of the other, above `first`."""
    similarity: NDArray[np.float64]
    """float64 [M], never rising, finite."""


def average_linkage(vectors: NDArray[np.float32], apart: Pairs) -> Tree:
    """The tree of items whose similarity is the dot product of their vectors.

    Similarities that decide are computed in float64; equal ones go to the lower numbers. Among more than fifty groups
    that are nearest within the rounding of float32, one of them is taken. Memory grows with N times D.

    Args:
        vectors: Of at most unit length, float32 [N, D].
        apart: Pairs that are never joined, int64 [P, 2].
    """
    groups = NearestGroups(vectors, apart)
    waiting = [(-most, item, 1) for item, most in enumerate(groups.compare_all().tolist())]
    heapq.heapify(waiting)
    known: dict[int, tuple[int, int]] = {}
    merges: list[tuple[int, int, float]] = []
    last = np.inf
    while waiting:
        bound, group, size = heapq.heappop(waiting)
        if groups.sizes[group] != size or bound == np.inf:
            continue  # it went into another, has grown since, or may be joined with none
        other, its_size = known.pop(group, (-1, 0))
        if other < 0 or groups.sizes[other] != its_size:
            value, other = groups.nearest(group)
            if value < groups.bounds[group]:
                if groups.bounds[group] < -bound:  # others come first
                    heapq.heappush(waiting, (-float(groups.bounds[group]), group, size))
                    continue
                groups.compare(group)
                value, other = groups.nearest(group)
            known[group] = (other, int(groups.sizes[other]))
            heapq.heappush(waiting, (-value, group, size))
            continue
        low, high = sorted((group, other))
        last = min(last, -bound)  # rounding may raise it by 1e-16
        merges.append((low, high, last))
        groups.join(low, high)
        known.pop(low, None)
        heapq.heappush(waiting, (-last, low, int(groups.sizes[low])))
    first, second, heights = (list(column) for column in zip(*merges, strict=True)) if merges else ([], [], [])
    return Tree(
        len(vectors),
        np.array(first, dtype=np.int64),
        np.array(second, dtype=np.int64),
        np.array(heights, dtype=np.float64),
    )


def cut(tree: Tree, threshold: float) -> Integers:
    """The cluster of each item at a threshold: the lowest item of its group, int64 [N]."""
    groups = np.arange(tree.count)
    for first, second, similarity in zip(
        tree.first.tolist(), tree.second.tolist(), tree.similarity.tolist(), strict=True
    ):
        if similarity < threshold:
            break
        groups[groups == second] = first
    return groups
