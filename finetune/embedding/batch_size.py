"""`--batch auto`: the number of images per call of a model that is fastest where it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...errors import InputError, RtoolError

__all__ = ["fitting_batch"]

FIRST = 64
_WORTHWHILE = 1.10
"""A batch twice as large is taken where it makes at least this many times the images per second."""
_MOST = 4096
_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "bad allocation", "can't allocate memory")
"""How torch and ONNX Runtime say it; neither has an error of its own for it on every device."""


def fitting_batch(
    embed_at: Callable[[int, NDArray[np.uint8]], NDArray[np.float32]],
    preprocessing: Preprocessing,
    fixed: int | None,
    device: str,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The model's fixed batch; 64 on a CPU, untried; on a GPU doubled from 64 while that pays and there is memory.

    A batch that runs out of memory is halved, down to single images. Random pixels are embedded for it.

    Args:
        embed_at: From a batch size and pixels uint8 [N, H, W, C] to embeddings.
        preprocessing: Size and channels of the pixels.
        fixed: The only batch that the model takes, if there is one.
        device: "cpu" or "cuda:N".
        clock: Seconds.

    Raises:
        InputError: there is no memory for a single image.
        RtoolError: the model cannot run on such images.
    """
    if fixed is not None or device == "cpu":
        return fixed or FIRST

    def rate(size: int) -> float | None:
        """Images per second; None when they do not fit into memory."""
        shape = (size, preprocessing.height, preprocessing.width, preprocessing.channels)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        try:
            embed_at(size, pixels)  # the first call of a size plans its kernels
            start = clock()
            embed_at(size, pixels)
        except (RtoolError, MemoryError) as error:
            if isinstance(error, MemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY):
                return None
            raise
        return size / max(clock() - start, 1e-9)

    size = FIRST
    best = rate(size)
    if best is None:
        while size > 1:
            size //= 2
            if rate(size) is not None:
                return size
        raise InputError("--batch auto: there is no memory for a single image; use another device or a smaller model")
    while size < _MOST:
        faster = rate(2 * size)
        if faster is None or faster < _WORTHWHILE * best:
            break
        size, best = 2 * size, faster
    return size
