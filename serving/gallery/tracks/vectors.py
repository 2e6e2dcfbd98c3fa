"""One vector per track, centred by camera.

A crop's embedding e is of unit length. t = unit(sum of q e). Centring subtracts the mean of t over its camera, or over
all tracks where the camera has fewer than eight, and makes it unit again: what the camera does to every image goes.
Camera bias grows on cameras that the model was not trained for (Song et al. 2025, arXiv:2502.10195).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ....finetune.embedding.unit_embeddings import unit_rows
from ..inputs.crops import Crops

__all__ = ["Centre", "TrackVectors", "sums_of_units", "track_vectors"]

Centre = Literal["none", "all", "camera"]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_ROWS = 1 << 12
_ENOUGH = 8
"""Tracks whose mean is worth subtracting."""


@dataclass(frozen=True)
class TrackVectors:
    """Unit vectors of T tracks, and of the halves of those that have four crops or more."""

    tracks: Floats
    """float32 [T, D]."""
    halved: Integers
    """Numbers of the tracks that have halves, int64 [H]."""
    halves: Floats
    """float32 [H, 2, D]: the first half of the track's crops in time, and the second."""
    note: str
    """What was centred."""


def track_vectors(
    crops: Crops, rows: Integers, embeddings: Floats, quality: NDArray[np.float64], centre: Centre
) -> TrackVectors:
    """Sum up the chosen crops of each track.

    Args:
        crops: All crops.
        rows: The chosen ones, ascending; every track has one.
        embeddings: Of the chosen ones, float32 [n, D].
        quality: Of all crops, [N].
        centre: What is subtracted.
    """
    owner, size = crops.track[rows], embeddings.shape[1]
    weights = np.maximum(quality[rows], 1e-6)
    count = len(crops.tracks)
    starts = np.searchsorted(owner, np.arange(count + 1))
    position = np.arange(len(rows)) - starts[owner]
    lengths = np.diff(starts)
    halved = np.flatnonzero(lengths >= 4)
    group = np.where(position < lengths[owner] // 2, 0, 1)
    sums = sums_of_units(embeddings, 2 * owner + group, weights, 2 * count).reshape(count, 2, size)
    whole = unit_rows(sums.sum(axis=1).astype(np.float32))
    parts = unit_rows(sums[halved].reshape(-1, size).astype(np.float32))
    means, note = _means(whole, crops, centre)
    centred = unit_rows(whole - means)
    halves = unit_rows(parts - np.repeat(means[halved], 2, axis=0)).reshape(len(halved), 2, whole.shape[1])
    return TrackVectors(centred, halved, halves, note)


def sums_of_units(embeddings: Floats, owner: Integers, weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Sums float64 [count, D] of embeddings [n, D], each made unit and weighted, by their owner [n]; some at a time."""
    sums = np.zeros((count, embeddings.shape[1]))
    for start in range(0, len(embeddings), _ROWS):
        part = slice(start, start + _ROWS)
        np.add.at(sums, owner[part], unit_rows(embeddings[part]) * weights[part, None])
    return sums


def _means(vectors: Floats, crops: Crops, centre: Centre) -> tuple[Floats, str]:
    """What is subtracted from each track, float32 [T, D], and a line about it."""
    means = np.zeros_like(vectors)
    if centre == "none":
        return means, "none"
    if len(vectors) < _ENOUGH:
        return means, f"none: {len(vectors)} tracks, and a mean needs {_ENOUGH}"
    means[:] = vectors.mean(axis=0, dtype=np.float64)
    if centre == "all":
        return means, "all"
    numbers = crops.camera_numbers
    cameras = [camera for camera in np.unique(numbers) if np.count_nonzero(numbers == camera) >= _ENOUGH]
    for camera in cameras:
        means[numbers == camera] = vectors[numbers == camera].mean(axis=0, dtype=np.float64)
    return means, f"camera: {len(cameras)} of {len(np.unique(numbers))} by their own mean"
