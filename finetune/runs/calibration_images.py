"""Images of a data set that calibrate restored BatchNorms, batch by batch, with a display of the progress."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ...converters.records.preprocessing import Preprocessing
from ..data.decoding import stream_pixels
from ..data.formats.sources import open_dataset
from .progress_display import ProgressDisplay

__all__ = ["CalibrationImages"]

_BATCH = 32
_LINES = 4
"""Lines that a calibration prints if there is no bar."""


class CalibrationImages:
    """Images of a data set in batches; nothing is opened before `batches` is called, and one batch is held."""

    def __init__(self, spec: str, limit: int, display: ProgressDisplay) -> None:
        """Prepare to read.

        Args:
            spec: The data set, as `open_dataset` accepts it.
            limit: Largest number of images, spread evenly over the data set.
            display: Shows the progress.
        """
        self._spec, self._limit, self._display = spec, limit, display
        self._total = limit
        self._seen = 0

    def batches(self, preprocessing: Preprocessing) -> Iterator[Tensor]:
        """Read the images: batches float32 [<= 32, C, H, W], preprocessed for the model."""
        dataset = open_dataset(self._spec)
        self._total = min(self._limit, len(dataset))
        chosen = np.linspace(0, len(dataset) - 1, self._total).astype(np.int64)
        for _, pixels in stream_pixels(dataset.subset(chosen), preprocessing.resize, _BATCH):
            yield torch.from_numpy(preprocessing.normalise(pixels))

    def show(self, seen: int) -> None:
        """Show that `seen` images have been read: on the bar, or by a line every quarter."""
        text = f"calibrated on {seen} of {self._total} images"
        if self._seen == 0 and seen > _BATCH:
            self._display.line(f"continuing an interrupted calibration: {text}")
        elif not self._display.has_bar and seen * _LINES // self._total > self._seen * _LINES // self._total:
            self._display.line(text)
        self._display.update(seen, self._total, "calibrating")
        self._seen = seen
