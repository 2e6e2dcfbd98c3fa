"""Seeded random inputs for measuring a model when the user gives none, in the shapes and dtypes of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ...records.preprocessing import Preprocessing
from ...records.record import TensorSpec

__all__ = ["probe_inputs", "probe_pixels"]


def probe_inputs(inputs: Sequence[TensorSpec], batch: int, *, seed: int = 0) -> tuple[NDArray[Any], ...]:
    """One array per input; axis 0 has size `batch` where it is not fixed.

    Floats are drawn from N(0, 1), uint8 from 0..255, booleans and other integers from {0, 1}.

    >>> (images,) = probe_inputs([TensorSpec("images", "float32", ("batch", 3, 4, 4))], 2)
    >>> images.shape, images.dtype
    ((2, 3, 4, 4), dtype('float32'))

    Raises:
        InputError: a size other than the batch is unknown.
    """
    generator = np.random.default_rng(seed)
    arrays = []
    for spec in inputs:
        shape = [size if isinstance(size, int) else None for size in spec.shape]
        if shape and shape[0] is None:
            shape[0] = batch
        if None in shape:
            raise InputError(
                f"input {spec.name!r} has the dynamic shape {list(spec.shape)}; give inputs of a fixed size"
            )
        sizes = [size for size in shape if size is not None]
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays.append(generator.standard_normal(sizes).astype(dtype))
        elif dtype == np.uint8:
            arrays.append(generator.integers(0, 256, sizes, dtype=np.uint8))
        elif dtype == np.bool_:
            arrays.append(generator.random(sizes) < 0.5)
        else:
            arrays.append(generator.integers(0, 2, sizes).astype(dtype))
    return tuple(arrays)


def probe_pixels(preprocessing: Preprocessing, count: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth random images uint8 [count, H, W, C]: noise at several scales, with a tint and contrast per image."""
    generator = np.random.default_rng(seed)
    size = (preprocessing.height, preprocessing.width)
    image = np.repeat(generator.standard_normal((count, 1, 1, preprocessing.channels)), size[0], axis=1)
    image = np.repeat(image, size[1], axis=2)
    for cell in (1, 4, 16, 64):
        rows, columns = (-(-side // cell) for side in size)
        noise = generator.standard_normal((count, rows, columns, preprocessing.channels))
        contrast = np.exp(0.7 * generator.standard_normal((count, 1, 1, 1)))
        image += contrast * np.repeat(np.repeat(noise, cell, axis=1), cell, axis=2)[:, : size[0], : size[1]]
    return np.clip(127.5 + 32 * image, 0, 255).astype(np.uint8)
