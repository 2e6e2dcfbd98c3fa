"""Whether the images of a run can be read and are of one identity each, looked at before the run: for `--dry-run`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...data.dataset import Dataset
from ...data.decoding import Resize, stream_pixels
from ...data.distinct_images import content_numbers, refuse_two_identities

__all__ = ["check_images"]

_MOST = 10_000
"""Images in all that are decoded, some seconds of work; the run itself finds what is wrong with others."""
_BATCH = 256


def check_images(datasets: Sequence[tuple[Dataset, bool]], resize: Resize) -> list[str]:
    """Decode the images of data sets, one after the other, and say for the log what was not looked at.

    Args:
        datasets: Data sets, each with whether one image under two identities stops the run.
        resize: From an image to the pixels that the network sees.

    Raises:
        DataError: over 1 % of the images of a data set cannot be read, or one image has two identities.
    """
    notes: list[str] = []
    room = _MOST
    for dataset, distinct in datasets:
        if len(dataset) > room:
            notes.append(
                f"{dataset.name}: {len(dataset)} images are not decoded here; the run says which are unreadable"
            )
            continue
        room -= len(dataset)
        found = [(places, content_numbers(pixels)) for places, pixels in stream_pixels(dataset, resize, _BATCH)]
        readable = np.concatenate([places for places, _ in found])
        if len(readable) < len(dataset):
            notes.append(f"{dataset.name}: {len(dataset) - len(readable)} images cannot be read, and will be skipped")
        if distinct:
            refuse_two_identities(dataset.subset(readable), np.concatenate([contents for _, contents in found]))
    return notes
