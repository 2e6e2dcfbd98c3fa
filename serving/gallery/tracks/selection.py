"""The best crops of a track, spread over its time: farthest-point selection weighted by quality.

The best crop first; then again and again the one with the largest q * min(1, gap / (length / K)), where gap is its
distance in frames to the nearest crop chosen before and length that of the track. Ties go to the earlier crop.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..inputs.crops import Crops

__all__ = ["best_crops", "spread_choice"]

Integers = NDArray[np.int64]


def best_crops(crops: Crops, quality: NDArray[np.float64], count: int) -> Integers:
    """Rows of at most `count` crops of every track, ascending, so in time within a track: int64 [n]."""
    chosen = []
    for track in range(len(crops.tracks)):
        rows = crops.rows_of(track)
        chosen.append(rows[spread_choice(crops.frame[rows], quality[rows], count)])
    return np.concatenate(chosen)


def spread_choice(frames: Integers, quality: NDArray[np.float64], count: int) -> Integers:
    """Positions of `count` crops at ascending `frames` [n], all where there are no more; ascending."""
    total = len(frames)
    if total <= count:
        return np.arange(total)
    times = frames if frames[-1] > frames[0] else np.arange(total)
    reach = (times[-1] - times[0]) / count
    gaps = np.full(total, np.inf)
    chosen: list[int] = []
    open_ = np.ones(total, dtype=np.bool_)
    for _ in range(count):
        worth = np.where(open_, quality * np.minimum(1, gaps / reach), -1.0)
        best = int(np.argmax(worth))
        chosen.append(best)
        open_[best] = False
        gaps = np.minimum(gaps, np.abs(times - times[best]))
    return np.sort(np.array(chosen, dtype=np.int64))
