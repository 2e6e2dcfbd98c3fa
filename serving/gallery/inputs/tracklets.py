"""Tracklets of a pose pipeline in a `.npz` file of plain arrays, read without pickle.

track_ids      integers [N]
frame_numbers  integers [N], from 0
bboxes         float [N, 4]: left, top, right, bottom in pixels
confidences    float [N], optional
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ....converters.files.array_files import read_arrays
from ....errors import DataError, InputError
from .tracker_text import Box, TrackerText

__all__ = ["read_tracklets"]

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
    scores = found.get("confidences", np.full(len(ids), np.nan))
    sizes = {len(ids), len(frames), len(boxes), len(scores)}
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(sizes) > 1 or not np.isfinite(boxes).all():
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
        raise DataError(f"{path}: {_EXPECTED}, got {shapes}")
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
