"""How similar people are, as files: the matrix, and the pairs above a threshold; some rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..people.similarity import MOST_WHOLE, similarity_rows

__all__ = ["HighPairs", "high_pairs", "write_matrix"]

_OF_EACH = 50

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class HighPairs:
    """Pairs of people above a threshold."""

    pairs: list[list[float]]
    """[a, b, cosine], a before b, most similar first."""
    count: int
    """Of all pairs above the threshold, listed or not."""
    of_each: int | None
    """The most similar of each person that are listed; None: all."""


def high_pairs(vectors: Floats, threshold: float) -> HighPairs:
    """The pairs strictly above the threshold, by unit vectors float32 [P, D].

    All of 10,000 people or fewer; of more, those that are among the fifty most similar of one of both.
    """
    limited = len(vectors) > MOST_WHOLE
    count, parts = 0, [(np.zeros(0, np.float32), np.zeros((0, 2), np.int64))]
    for rows, block in similarity_rows(vectors):
        one, other = np.nonzero(block > threshold)
        above = other > one + rows.start
        count += int(above.sum())
        chosen = _most_similar(block, one, other, rows.start) if limited else above
        one, other = one[chosen], other[chosen]
        parts.append((block[one, other], np.sort(np.stack([one + rows.start, other], axis=1), axis=1)))
    values, pairs = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if limited:
        pairs, first = np.unique(pairs, axis=0, return_index=True)
        values = values[first]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -values))
    listed = zip(pairs[order].tolist(), values[order].tolist(), strict=True)
    return HighPairs([[*pair, round(value, 6)] for pair, value in listed], count, _OF_EACH if limited else None)


def _most_similar(block: Floats, one: Integers, other: Integers, start: int) -> NDArray[np.bool_]:
    """Which of the pairs [n], row by row, are among the most similar of their row, the lowest of equal ones."""
    chosen: NDArray[np.bool_] = other != one + start
    ends = np.searchsorted(one, np.arange(len(block) + 1))
    for row in np.flatnonzero(np.diff(ends) > _OF_EACH):
        part = slice(ends[row], ends[row + 1])
        values = np.where(chosen[part], block[row, other[part]], -np.inf)
        last = np.partition(values, len(values) - _OF_EACH)[len(values) - _OF_EACH]
        equal = np.flatnonzero(values == last)
        chosen[part] = values > last
        chosen[ends[row] + equal[: _OF_EACH - int((values > last).sum())]] = last > -np.inf
    return chosen


def write_matrix(vectors: Floats, path: Path) -> None:
    """Write the cosines of unit vectors float32 [P, D] as an array float32 [P, P] in NumPy's format."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (len(vectors), len(vectors))}
        )
        for _, block in similarity_rows(vectors):
            file.write(block.astype("<f4", copy=False).data)
