"""Pairs of tracks that cannot be one person: they overlap in time in one camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..inputs.crops import Crops

__all__ = ["overlapping_tracks"]


def overlapping_tracks(crops: Crops, least: int = 1) -> NDArray[np.int64]:
    """Pairs of tracks of one camera whose spans share `least` frames or more: int64 [P, 2], the lower number first."""
    first, last = crops.spans()
    cameras = crops.camera_numbers
    pairs = []
    for camera in np.unique(cameras):
        own = np.flatnonzero(cameras == camera)
        own = own[np.argsort(first[own], kind="stable")]
        for place, track in enumerate(own):
            # those that begin later, up to the last that begins within this one
            end = np.searchsorted(first[own], last[track] - least + 1, side="right")
            others = own[place + 1 : end]
            shared = np.minimum(last[others], last[track]) - first[others] + 1
            pairs += [(track, other) for other in others[shared >= least]]
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return np.unique(np.sort(found, axis=1), axis=0)
