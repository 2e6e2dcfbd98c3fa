"""How similar T tracks are, without a matrix of all pairs: the dot products of their vectors, some rows at a time.

The vectors have unit length, so that a dot product is a cosine; or they are the means of a track's crops, whose dot
product is the mean cosine of all pairs of crops. A matrix of 10,000 rows takes 400 MB, and one of 20,000 four times as
much; rows of it take 80 MB at most.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_WHOLE", "similarity_of_all", "similarity_rows"]

MOST_WHOLE = 10_000
"""Rows of the largest matrix that is ever held or listed as a whole."""
_TILE = 1024
"""Rows and columns that are multiplied at a time."""

Floats = NDArray[np.float32]


def similarity_rows(vectors: Floats) -> Iterator[tuple[slice, Floats]]:
    """The rows of the matrix in turn: float32 [n, T], n at most 1024, from vectors float32 [T, D].

    Values are clipped to -1 .. 1, the diagonal is 1. A pair has the same value in both of its rows, bit by bit: what
    lies below the diagonal is the product above it.
    """
    tiles = [slice(start, min(start + _TILE, len(vectors))) for start in range(0, len(vectors), _TILE)]
    for rows in tiles:
        block = np.empty((rows.stop - rows.start, len(vectors)), dtype=np.float32)
        for columns in tiles:
            low, high = (columns, rows) if columns.start < rows.start else (rows, columns)
            product = vectors[low] @ vectors[high].T
            block[:, columns] = product if low is rows else product.T
        np.clip(block, -1, 1, out=block)
        block[np.arange(len(block)), np.arange(rows.start, rows.stop)] = 1.0
        yield rows, block


def similarity_of_all(vectors: Floats) -> Floats:
    """The whole matrix float32 [T, T], for few tracks."""
    whole = np.empty((len(vectors), len(vectors)), dtype=np.float32)
    for rows, block in similarity_rows(vectors):
        whole[rows] = block
    return whole
