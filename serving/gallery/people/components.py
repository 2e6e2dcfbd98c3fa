"""Groups of tracks joined by every pair at or above a threshold, but for pairs that cannot be one person.

The most similar pair comes first, for what a cannot-link stops depends on the order. Pairs are gathered in bands of
similarity, so that a threshold which many millions of them reach takes no more memory than another.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .cannot_link import apart_from
from .similarity import similarity_rows

__all__ = ["components"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Part = tuple[Floats, NDArray[np.int32], NDArray[np.int32]]

_PAIRS = 1 << 23
"""Pairs that are sorted at a time, in 300 MB."""
_BINS = 1 << 14
_FINEST = 2.0**-24
"""Below the distance of two float32 cosines that decide: from .5 to 1."""
_AT_ONCE = 1 << 16
_ROWS = 128


def components(vectors: Floats, apart: Integers, threshold: float) -> Integers:
    """The lowest track of the group of each, int64 [T].

    Args:
        vectors: Whose dot products are the similarities, float32 [T, D].
        apart: Pairs that are never joined, int64 [P, 2].
        threshold: The similarity from which a pair is joined.
    """
    groups, banned = np.arange(len(vectors)), apart_from(apart, len(vectors))
    for first, second in _pairs(vectors, threshold, np.inf):
        for start in range(0, len(first), _AT_ONCE):
            _join(groups, banned, first[start : start + _AT_ONCE], second[start : start + _AT_ONCE])
    return groups


def _join(groups: Integers, banned: list[Integers], first: Integers, second: Integers) -> None:
    """Join pairs in their order. Of all pairs between two groups, only the first can change anything."""
    one, other = groups[first], groups[second]
    keys = np.minimum(one, other) * len(groups) + np.maximum(one, other)
    keys, places = np.unique(keys[one != other], return_index=True)
    for key in keys[np.argsort(places)].tolist():
        low, high = sorted(groups[list(divmod(key, len(groups)))].tolist())
        if low == high or (groups[banned[high]] == low).any():
            continue
        groups[groups == high] = low
        banned[low] = np.unique(groups[np.concatenate([banned[low], banned[high]])])
        banned[high] = banned[high][:0]


def _pairs(vectors: Floats, low: float, high: float) -> Iterator[tuple[Integers, Integers]]:
    """Both tracks of all pairs with low <= similarity < high, the most similar first, of equal ones the lowest numbers.

    In parts. A bin of similarities that holds too many pairs is divided again, until all in it are equal.
    """
    low = max(low, -1.0)
    width = (min(high, 1.0 + _FINEST) - low) / _BINS
    edges = [low + number * width for number in range(_BINS)] + [high]
    counts = np.zeros(_BINS, dtype=np.int64)
    for values, _, _ in _between(vectors, low, high):
        bins = np.clip((values.astype(np.float64) - low) / width, 0, _BINS - 1)
        counts += np.bincount(bins.astype(np.int64), minlength=_BINS)
    below = np.concatenate([[0], np.cumsum(counts)])
    end = _BINS
    while end:
        start = min(int(np.searchsorted(below, below[end] - _PAIRS)), end - 1)
        within = edges[start], edges[end]
        if below[end] - below[start] <= _PAIRS:
            yield _ordered(list(_between(vectors, *within)))
        elif width > _FINEST:
            yield from _pairs(vectors, *within)
        else:
            yield from (_ordered([part]) for part in _between(vectors, *within))
        end = start


def _between(vectors: Floats, low: float, high: float) -> Iterator[Part]:
    """Pairs of such similarity, some rows at a time: float32, int32 and int32 [n], the lower track first."""
    for rows, block in similarity_rows(vectors):
        for start in range(0, len(block), _ROWS):
            some = block[start : start + _ROWS, rows.start :]
            one, other = np.nonzero((some >= low) & (some < high))
            one, other = one[other > one + start], other[other > one + start]
            yield some[one, other], (one + rows.start + start).astype(np.int32), (other + rows.start).astype(np.int32)


def _ordered(parts: list[Part]) -> tuple[Integers, Integers]:
    """The pairs of all parts, the most similar first."""
    values, first, second = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(-values, kind="stable")
    return first[order].astype(np.int64), second[order].astype(np.int64)
