"""Tracklets of a pose pipeline in a `.npz` file of plain arrays, read without pickle.

track_ids      integers [N]
frame_numbers  integers [N], from 0
bboxes         float [N, 4]: left, top, right, bottom in pixels
confidences    float [N], optional
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....converters.files.array_files import read_arrays
from ....errors import DataError, InputError
from .tracker_text import Box, TrackerText

__all__ = ["read_tracklets"]

Array = NDArray[Any]
_MOST = 1e15
"""No id, frame or pixel lies beyond."""
_EXPECTED = "expected the plain arrays track_ids [N], frame_numbers [N], bboxes [N, 4] and confidences [N]"


def read_tracklets(path: Path) -> TrackerText:
    """Read tracklets.

    Raises:
        InputError: the file is missing, damaged, or holds pickled objects.
        DataError: arrays are missing or their sizes differ, or no box is left.
    """
    try:
        arrays = read_arrays(path)
    except InputError as error:
        raise InputError(f"{error}; {_EXPECTED}") from error
    found = arrays if isinstance(arrays, dict) else {}
    if missing := [name for name in ("track_ids", "frame_numbers", "bboxes") if name not in found]:
        raise DataError(f"{path}: no array {missing[0]}; {_EXPECTED}")
    ids, frames, boxes = (found[name] for name in ("track_ids", "frame_numbers", "bboxes"))
    scores = found.get("confidences", np.full(ids.shape, np.nan))
    _check(path, ids, frames, boxes, scores)
    kept, nobody, empty = [], 0, 0
    for number, frame, (left, top, right, bottom), score in zip(
        ids.tolist(), frames.tolist(), boxes.tolist(), scores.tolist(), strict=True
    ):
        if number < 0:
            nobody += 1
        elif right <= left or bottom <= top:
            empty += 1
        else:
            known = float(score) if 0 <= score <= 1 else math.nan
            kept.append(Box(int(frame), str(int(number)), left, top, right, bottom, known))
    notes = [f"{path.name}: tracklets, frames from 0"]
    counts = ((nobody, "with ids below 0"), (empty, "of no area"))
    notes += [f"{count} boxes {what} left out" for count, what in counts if count]
    if not kept:
        raise DataError(f"{path}: no box of a person is left ({'; '.join(notes)})")
    return TrackerText(tuple(kept), "tracklets", 0, False, tuple(notes))


def _check(path: Path, ids: Array, frames: Array, boxes: Array, scores: Array) -> None:
    """Refuse arrays of other shapes or types, and numbers that are no ids, frames or places."""
    arrays = {"track_ids": ids, "frame_numbers": frames, "bboxes": boxes, "confidences": scores}
    shapes = [array.shape for array in arrays.values()]
    if (
        ids.ndim != 1
        or shapes != [ids.shape, ids.shape, (len(ids), 4), ids.shape]
        or any(array.dtype.kind not in "iuf" for array in arrays.values())
    ):
        listed = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items())
        raise DataError(f"{path}: {_EXPECTED}, got {listed}")
    for name in ("track_ids", "frame_numbers"):
        values = arrays[name].astype(np.float64)
        wrong = ~(np.abs(values) <= _MOST) | (values != np.rint(values))
        if wrong.any():
            place = int(np.argmax(wrong))
            raise DataError(f"{path}: {name} must be whole numbers, got {arrays[name][place]} at [{place}]")
    wrong = ~(np.abs(boxes.astype(np.float64)) <= _MOST).all(axis=1)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise DataError(f"{path}: bboxes must be pixels, got {boxes[place].tolist()} at [{place}]")
