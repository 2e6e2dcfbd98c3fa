"""Pairs of tracks that cannot be one person: they overlap in time in one camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..inputs.crops import Crops

__all__ = ["apart_from", "overlapping_tracks"]

Integers = NDArray[np.int64]


def overlapping_tracks(crops: Crops, least: int = 1) -> Integers:
    """Pairs of tracks of one camera whose spans share `least` frames or more: int64 [P, 2], the lower number first."""
    first, last = crops.spans()
    cameras = crops.camera_numbers
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for camera in np.unique(cameras):
        own = np.flatnonzero(cameras == camera)
        own = own[np.argsort(first[own], kind="stable")]
        begins = first[own]
        for place, track in enumerate(own):
            # those that begin later, up to the last that begins within this one
            end = np.searchsorted(begins, last[track] - least + 1, side="right")
            others = own[place + 1 : end]
            shared = np.minimum(last[others], last[track]) - first[others] + 1
            found = others[shared >= least]
            pairs.append(np.stack([np.minimum(found, track), np.maximum(found, track)], axis=1))
    every = np.concatenate(pairs)
    return every[np.lexsort((every[:, 1], every[:, 0]))]


def apart_from(pairs: Integers, count: int) -> list[Integers]:
    """The items that each of `count` items is apart from, by the pairs int64 [P, 2]."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    order = np.argsort(both[:, 0], kind="stable")
    return np.split(both[order, 1], np.searchsorted(both[order, 0], np.arange(1, count)))
