"""Warm-up requests with finite data, so that the first user's request does not pay for the start-up of kernels.

Triton's own `random_data` fills tensors with random bytes, which as floats are NaN and denormals. The data here is a
smooth picture, the same on every machine, that compresses to almost nothing in a git repository; callers may pass crops
instead. The requests are `model_warmup` of Triton's `model_config.proto`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.files.array_files import read_arrays
from ...converters.runtime.nonsense import not_finite
from ...errors import InputError
from .graph_signature import GraphSignature, GraphTensor

__all__ = ["WarmupFile", "example_array", "read_examples", "warmup_files"]


_SHIFT = 7
"""Elements by which the picture shifts from one row to the next; prime, so that rows of the usual sizes differ."""


@dataclass(frozen=True)
class WarmupFile:
    """The bytes for one input of a warm-up request; its name has a digest, so a new version never overwrites it."""

    input: str
    data_type: str
    dims: tuple[int, ...]
    data: bytes

    @property
    def file_name(self) -> str:
        """The file's name in the folder `warmup/`."""
        stem = "".join(letter if letter.isalnum() else "_" for letter in self.input)
        return f"{stem}-{hashlib.sha256(self.data).hexdigest()[:8]}.bin"


def warmup_files(signature: GraphSignature, examples: Mapping[str, NDArray[Any]] | None = None) -> list[WarmupFile]:
    """One file per input: the whole batch where it is fixed, one row where it is dynamic.

    `examples` maps every input's name to an array [N, ...] of the input's dtype, N at least the fixed batch. Without
    it, example data is generated; the result is empty when an axis beside the batch is dynamic.

    Raises:
        InputError: an example is missing, differs from its input in dtype or shape, or is not finite.
    """
    batch = signature.batch
    if examples is None:
        if any(-1 in tensor.dims[1:] for tensor in signature.inputs):
            return []
        examples = {tensor.name: example_array(tensor, batch or 1) for tensor in signature.inputs}
    files = []
    for tensor in signature.inputs:
        array = _fitting(tensor, examples, batch)
        dims = array.shape if batch is not None else array.shape[1:] or (1,)
        files.append(WarmupFile(tensor.name, tensor.data_type, tuple(dims), array.tobytes()))
    return files


def example_array(tensor: GraphTensor, rows: int) -> NDArray[Any]:
    """Smooth pictures [rows, ...] in the dtype of one input.

    Values are -1..1 for floats, 0..255 for uint8, 0..127 for int8, and 0 for other types. Each row is the one before
    it, shifted, so that a server that mixes up rows is detected.

    Raises:
        InputError: an axis beside the batch is dynamic, or NumPy lacks the type.
    """
    shape = tensor.dims[1:]
    if -1 in shape:
        raise InputError(
            f"input {tensor.name!r}: dims {list(tensor.dims)} have dynamic axes beside the batch; give examples"
        )
    dtype = tensor.dtype
    wave = np.zeros(shape)
    for axis, size in enumerate(shape):
        phase = np.arange(size) * (2 * np.pi * (axis + 1) / max(size, 1))
        wave = wave + np.sin(phase).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    levels = np.round(127.5 * (1 + wave / max(len(shape), 1)))
    if dtype.kind == "f":
        row = (levels / 127.5 - 1).astype(dtype)
    elif dtype in (np.dtype(np.uint8), np.dtype(np.int8)):
        row = np.clip(levels, 0, 127 if dtype.kind == "i" else 255).astype(dtype)
    else:
        row = np.zeros(shape, dtype)
    return np.stack([np.roll(row.reshape(-1), _SHIFT * index).reshape(shape) for index in range(rows)])


def read_examples(path: Path, signature: GraphSignature) -> dict[str, NDArray[Any]]:
    """Arrays by input name, from a `.npz` file, or from a `.npy` file for a model with one input. Nothing is unpickled.

    Raises:
        InputError: the file is missing, has no plain arrays, or is a single array for a model with several inputs.
    """
    loaded = read_arrays(path)
    if isinstance(loaded, dict):
        return loaded
    if len(signature.inputs) != 1:
        names = ", ".join(tensor.name for tensor in signature.inputs)
        raise InputError(f"{path}: one array for the inputs {names}; save them by name with numpy.savez")
    return {signature.inputs[0].name: loaded}


def _fitting(tensor: GraphTensor, examples: Mapping[str, NDArray[Any]], batch: int | None) -> NDArray[Any]:
    if tensor.name not in examples:
        raise InputError(
            f"warm-up: no example for input {tensor.name!r}; given: {', '.join(sorted(examples)) or 'none'}"
        )
    array = np.asarray(examples[tensor.name])
    rows = batch or 1
    expected = (rows, *tensor.dims[1:])
    fits = array.ndim == len(expected) and all(w in (-1, g) for w, g in zip(expected[1:], array.shape[1:], strict=True))
    if array.dtype != tensor.dtype or not fits or len(array) < rows:
        raise InputError(
            f"warm-up: input {tensor.name!r} expects {tensor.dtype} {list(expected)}, "
            f"got {array.dtype} {list(array.shape)}"
        )
    if nonsense := not_finite([array], [f"input {tensor.name!r}"]):
        raise InputError(f"warm-up: {nonsense[0]}; give finite data, a server would warm up with them")
    return np.ascontiguousarray(array[:rows])
