"""The nearest images of every image, found block by block, without a matrix of all distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cores import Progress, available_cores, blocks, no_progress, on_all_cores

__all__ = ["NeighbourLists", "find_neighbours", "squared_distances"]

Floats = NDArray[np.float32]
Neighbours = NDArray[np.int32]


@dataclass(frozen=True)
class NeighbourLists:
    """Of N images: the K nearest each, and its largest distance."""

    order: Neighbours
    """int32 [N, K], nearest first, of equal ones that with the lower number; the image itself is one of the N."""
    largest: Floats
    """The largest squared distance of each image, [N], at least 1e-12."""


def find_neighbours(rows: Floats, count: int, report: Progress = no_progress) -> NeighbourLists:
    """The `count` nearest of all N rows [N, D] of each row by squared distance; fewer where N is smaller."""
    total, count = len(rows), min(count, len(rows))
    squares = np.einsum("nd,nd->n", rows, rows)
    order, largest = np.empty((total, count), dtype=np.int32), np.empty(total, dtype=np.float32)
    for block in blocks(total, total):
        distances = squared_distances(rows[block], rows, squares[block], squares)

        def choose(part: slice, start: int = block.start, distances: Floats = distances) -> None:
            for number in range(part.start, part.stop):
                row = distances[number]
                order[start + number] = _nearest(row, count)
                largest[start + number] = max(row.max(), 1e-12)

        step = -(-len(distances) // available_cores())
        on_all_cores(choose, [slice(at, min(at + step, len(distances))) for at in range(0, len(distances), step)])
        report("finding neighbours", block.stop, total)
    return NeighbourLists(order, largest)


def squared_distances(one: Floats, other: Floats, one_squares: Floats, other_squares: Floats) -> Floats:
    """Squared Euclidean distances [n, m] of rows [n, D] and [m, D] whose squared lengths are given; none below 0."""
    distances: Floats = (-2 * one) @ other.T
    distances += one_squares[:, None]
    distances += other_squares
    np.maximum(distances, 0, out=distances)
    return distances


def _nearest(row: Floats, count: int) -> Neighbours:
    """Positions of the `count` smallest of a row as a stable sort has them."""
    last = np.partition(row, count - 1)[count - 1]
    candidates = np.flatnonzero(row <= last)
    return candidates[np.argsort(row[candidates], kind="stable")[:count]].astype(np.int32)
