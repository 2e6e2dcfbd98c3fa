"""The sizes at which a model with open sizes is measured: one rule, for every command.

1. The batch (axis 0) is left open.
2. Height and width of an image input [N, C, H, W] or [N, H, W, C] are those of the preprocessing, where one is known.
3. A size that has the name of another one is the same size.
4. Every other open size is `DEFAULT`: divisible by the strides of common networks, and small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...records.image_size import image_shape
from ...records.preprocessing import Preprocessing
from ...records.record import Dim, TensorSpec

__all__ = ["DEFAULT", "closed_sizes", "describe_open_sizes", "image_index"]

DEFAULT = 64


def image_index(inputs: Sequence[TensorSpec]) -> int | None:
    """Which input is the image: the only one with four axes that holds floats or uint8; None where none or several."""
    found = [
        index
        for index, spec in enumerate(inputs)
        if len(spec.shape) == 4 and (spec.dtype == "uint8" or "float" in spec.dtype)
    ]
    return found[0] if len(found) == 1 else None


def closed_sizes(inputs: Sequence[TensorSpec], preprocessing: Preprocessing | None = None) -> tuple[TensorSpec, ...]:
    """`inputs` with every size but the batch as a number."""
    image = image_index(inputs)
    known: dict[str, int] = {}
    if preprocessing is not None and image is not None:
        for size, wanted in zip(inputs[image].shape[1:], image_shape(preprocessing), strict=True):
            if isinstance(size, str):
                known.setdefault(size, wanted)
    closed = []
    for index, spec in enumerate(inputs):
        default: Sequence[int] = [DEFAULT] * len(spec.shape[1:])
        if preprocessing is not None and index == image:
            default = image_shape(preprocessing)
        sizes = [_size(size, fallback, known) for size, fallback in zip(spec.shape[1:], default, strict=True)]
        closed.append(replace(spec, shape=(*spec.shape[:1], *sizes)))
    return tuple(closed)


def describe_open_sizes(inputs: Sequence[TensorSpec], preprocessing: Preprocessing | None = None) -> str:
    """The sizes that `closed_sizes` picked, in words; "" where no size but the batch is open."""
    picked = []
    for spec, closed in zip(inputs, closed_sizes(inputs, preprocessing), strict=True):
        if any(not isinstance(size, int) for size in spec.shape[1:]):
            picked.append(f"{spec.name} {' x '.join(map(str, closed.shape[1:]))}")
    if not picked:
        return ""
    origin = "the preprocessing's size" if preprocessing is not None else f"{DEFAULT} where nothing states a size"
    return f"{', '.join(picked)} ({origin})"


def _size(size: Dim, fallback: int, known: dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    return known.setdefault(size, fallback) if isinstance(size, str) else fallback
