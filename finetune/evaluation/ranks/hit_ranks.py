"""At which ranks a query finds the images of its identity: counted, without sorting the gallery.

The rank of a match is the number of gallery images that are nearer, or as near and listed before it: its place in a
stable sort. Gallery images of the query's identity *and* camera are junk and count for nothing (Zheng et al., "Scalable
Person Re-identification: A Benchmark", ICCV 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cores import Progress, available_cores, blocks, no_progress, on_all_cores

__all__ = ["HitRanks", "Matches", "find_hit_ranks"]

Indices = NDArray[np.int64]
Distances = NDArray[np.floating]

_FEW = 64
"""Matches up to which one pass over the gallery for each is faster than one binary search for each gallery image."""


@dataclass(frozen=True)
class HitRanks:
    """What the ranks of the matches say of each query: arrays of length Q, zero where a query has no match."""

    hits: Indices
    """Number of matches in the gallery; 0 for a query that is left out."""
    first: Indices
    """Rank of the first match, from 0."""
    average_precision: NDArray[np.float64]
    """Mean of the precisions at the matches."""
    inverse_negative: NDArray[np.float64]
    """Number of matches / (rank of the last one from 1): INP of AGW, arXiv:2001.04193."""

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Which queries have a match, bool [Q]."""
        return self.hits > 0


class Matches:
    """The gallery images of each query's identity, found once by sorting the labels."""

    def __init__(
        self, query_ids: Indices, gallery_ids: Indices, query_cameras: Indices, gallery_cameras: Indices
    ) -> None:
        """Prepare; arrays int64 [Q] and [G]. A camera below 0 is unknown and makes no junk."""
        self._order = np.argsort(gallery_ids, kind="stable")
        ids = gallery_ids[self._order]
        self._starts = np.searchsorted(ids, query_ids, side="left")
        self._ends = np.searchsorted(ids, query_ids, side="right")
        self._query_cameras, self._gallery_cameras = query_cameras, gallery_cameras

    def of(self, query: int) -> tuple[Indices, Indices]:
        """Gallery positions of matches and of junk, each in ascending order."""
        places = self._order[self._starts[query] : self._ends[query]]
        camera = self._query_cameras[query]
        if camera < 0:
            return places, places[:0]
        junk = self._gallery_cameras[places] == camera
        return places[~junk], places[junk]


def find_hit_ranks(
    distances: Callable[[slice], Distances],
    queries: int,
    gallery: int,
    matches: Matches,
    report: Progress = no_progress,
) -> HitRanks:
    """Rank the matches of every query, one block of queries at a time.

    Args:
        distances: From consecutive queries to their distances [n, G]; smaller is nearer.
        queries: Q.
        gallery: G.
        matches: Which gallery images are right, and which count for nothing.
        report: Called with the number of queries that are done.
    """
    hits, first = np.zeros(queries, dtype=np.int64), np.zeros(queries, dtype=np.int64)
    precision, inverse = np.zeros(queries), np.zeros(queries)
    for block in blocks(queries, gallery):
        rows = distances(block)

        def measure(part: slice, start: int = block.start, rows: Distances = rows) -> None:
            for number in range(part.start, part.stop):
                good, junk = matches.of(start + number)
                if not len(good):
                    continue
                ranks = _ranks(rows[number], good, junk)
                query = start + number
                hits[query], first[query] = len(ranks), ranks[0]
                precision[query] = np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1))
                inverse[query] = len(ranks) / (ranks[-1] + 1)

        step = -(-len(rows) // available_cores())
        on_all_cores(measure, [slice(at, min(at + step, len(rows))) for at in range(0, len(rows), step)])
        report("ranking queries", block.stop, queries)
    return HitRanks(hits, first, precision, inverse)


def _ranks(row: Distances, good: Indices, junk: Indices) -> Indices:
    """Ranks of the `good` positions of one row, from 0 and ascending, once `junk` is taken out."""
    before = _before(row, good) if len(good) <= _FEW else _before_many(row, good)
    if len(junk):
        value, other = row[good][:, None], row[junk]
        before = before - ((other < value) | ((other == value) & (junk < good[:, None]))).sum(axis=1)
    return np.sort(before)


def _before(row: Distances, good: Indices) -> Indices:
    counts = [
        np.count_nonzero(row[:place] <= row[place]) + np.count_nonzero(row[place + 1 :] < row[place])
        for place in good.tolist()
    ]
    return np.array(counts, dtype=np.int64)


def _before_many(row: Distances, good: Indices) -> Indices:
    """As `_before`, by the place of each gallery image among the matches."""
    order = np.lexsort([good, row[good]])
    values = row[good][order]
    place = np.searchsorted(values, row, side="left")  # values[place - 1] < row <= values[place]
    not_above = np.cumsum(np.bincount(place, minlength=len(good) + 1))[: len(good)]
    # The first of equal values counts all that equal it; the others count the same.
    leader = np.searchsorted(values, values, side="left")
    not_above = not_above[leader]
    equal = np.flatnonzero(values[np.minimum(place, len(good) - 1)] == row)  # in the order of the gallery
    by_value = np.lexsort([equal, row[equal]])
    sorted_values, sorted_places = row[equal][by_value], equal[by_value]
    ends = np.searchsorted(sorted_values, values, side="right")
    # Of one value, those after a match: from its own place to the end of the value's group.
    own = np.flatnonzero(np.isin(sorted_places, good))
    before = np.empty(len(good), dtype=np.int64)
    before[order] = not_above - (ends - own)
    return before
