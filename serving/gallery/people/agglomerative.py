"""Average linkage: the two most similar groups become one, again and again; similarity is the mean cosine of all pairs.

Pairs that cannot be one person are at -inf, which every mean with them keeps, so no group ever holds such a pair. The
similarities of the merges never rise (average linkage is reducible: Bruynooghe 1977; Murtagh 1983), so that one tree
holds the clusters of every threshold: `cut` applies the merges at or above it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def average_linkage(similarity: NDArray[np.floating], apart: Pairs) -> Tree:
    """The tree of similarities [N, N]; `apart` int64 [P, 2] lists pairs that are never joined.

    Equal similarities go to the lower numbers. Memory: one copy of the matrix, float64 up to 4,000 items.
    """
    count = len(similarity)
    s: NDArray[np.floating] = similarity.astype(np.float64 if count <= 4000 else np.float32)
    np.fill_diagonal(s, -np.inf)
    s[apart[:, 0], apart[:, 1]] = -np.inf
    s[apart[:, 1], apart[:, 0]] = -np.inf
    sizes = np.ones(count)
    best = s.argmax(axis=1) if count else np.zeros(0, dtype=np.int64)
    value = s[np.arange(count), best].astype(np.float64)
    merges: list[tuple[int, int, float]] = []
    last = np.inf
    while count > 1:
        one = int(np.argmax(value))
        if value[one] == -np.inf:
            break
        low, high = sorted((one, int(best[one])))
        last = min(last, float(value[one]))  # rounding may raise it by 1e-16
        merges.append((low, high, last))
        with np.errstate(invalid="ignore"):
            row = (sizes[low] * s[low] + sizes[high] * s[high]) / (sizes[low] + sizes[high])
        sizes[low] += sizes[high]
        row[[low, high]] = -np.inf
        s[low], s[:, low] = row, row
        s[high], s[:, high] = -np.inf, -np.inf
        value[high] = -np.inf
        for item in np.flatnonzero(((best == low) | (best == high)) & (value > -np.inf)).tolist():
            _renew(s, best, value, item)
        _renew(s, best, value, low)
    first, second, heights = (list(column) for column in zip(*merges, strict=True)) if merges else ([], [], [])
    return Tree(
        count, np.array(first, dtype=np.int64), np.array(second, dtype=np.int64), np.array(heights, dtype=np.float64)
    )


def _renew(s: NDArray[np.floating], best: Integers, value: NDArray[np.float64], item: int) -> None:
    best[item] = s[item].argmax()
    value[item] = s[item, best[item]]


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
