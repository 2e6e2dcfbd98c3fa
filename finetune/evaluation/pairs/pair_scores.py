"""The cosines of pairs of images: any number of pairs, some at a time, on all cores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..cores import Progress, no_progress, on_all_cores

__all__ = ["pair_cosines"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_PAIRS_AT_ONCE = 1 << 12
"""Rows of this many pairs lie in the cache of a core: 16 MB at 512 numbers each."""
_PAIRS_PER_REPORT = 1 << 20


def pair_cosines(unit: Floats, pairs: Indices, report: Progress = no_progress) -> Floats:
    """Cosines float32 [P] of the pairs int64 [P, 2 or more] of rows of unit embeddings float32 [N, D]."""
    cosines = np.empty(len(pairs), dtype=np.float32)

    def score(part: slice) -> None:
        cosines[part] = np.einsum("pd,pd->p", unit[pairs[part, 0]], unit[pairs[part, 1]])

    for start in range(0, len(pairs), _PAIRS_PER_REPORT):
        end = min(start + _PAIRS_PER_REPORT, len(pairs))
        starts = range(start, end, _PAIRS_AT_ONCE)
        on_all_cores(score, [slice(at, min(at + _PAIRS_AT_ONCE, end)) for at in starts])
        report("comparing pairs", end, len(pairs))
    return cosines
