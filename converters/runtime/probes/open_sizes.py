"""The sizes at which a model with open sizes is measured: one rule, for every command.

1. The batch (axis 0) is left open.
2. An input that `--probe` gives an array for has the sizes of that array.
3. Height and width of an image input [N, C, H, W] or [N, H, W, C] are those of the preprocessing, where one is known.
4. A size that has the name of another one is the same size.
5. Every other open size is `DEFAULT`: divisible by the strides of common networks, and small.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...records.image_size import image_shape
from ...records.preprocessing import Preprocessing
from ...records.record import Dim, TensorSpec

__all__ = ["DEFAULT", "closed_sizes", "describe_open_sizes", "given_sizes", "image_index"]

DEFAULT = 64


def image_index(inputs: Sequence[TensorSpec], given: Collection[str] = ()) -> int | None:
    """Which input is the image, which has four axes and holds floats or uint8; None where none or several may be.

    Of several, it is the only one that is not in `given`, the inputs that have a value of their own; else the only one
    with three channels, the others being masks or maps.
    """
    found = [
        index
        for index, spec in enumerate(inputs)
        if len(spec.shape) == 4 and (spec.dtype == "uint8" or "float" in spec.dtype)
    ]
    if len(found) > 1:
        found = [index for index in found if inputs[index].name not in given] or found
    if len(found) > 1:
        found = [index for index in found if 3 in (inputs[index].shape[1], inputs[index].shape[3])]
    return found[0] if len(found) == 1 else None


def closed_sizes(
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None = None,
    probes: Mapping[str, Any] | None = None,
) -> tuple[TensorSpec, ...]:
    """`inputs` with every size but the batch as a number; `probes` as in `given_probes`."""
    inputs = given_sizes(inputs, probes or {})
    image = image_index(inputs, probes or {})
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


def given_sizes(inputs: Sequence[TensorSpec], probes: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """`inputs` with the open sizes that the arrays among `probes` have, and with those of the same name."""
    shapes = {
        spec.name: probe.shape
        for spec in inputs
        if not isinstance(probe := probes.get(spec.name, ""), str) and probe.ndim == len(spec.shape)
    }
    known: dict[Dim, int] = {}
    for spec in inputs:
        for size, number in zip(spec.shape[1:], shapes.get(spec.name, ())[1:], strict=False):
            if isinstance(size, str):
                known.setdefault(size, number)
    sized = []
    for spec in inputs:
        own = shapes.get(spec.name, spec.shape)[1:]
        open_ones = [
            known.get(size, size if size is not None else number)
            for size, number in zip(spec.shape[1:], own, strict=True)
        ]
        sized.append(replace(spec, shape=(*spec.shape[:1], *open_ones)))
    return tuple(sized)


def describe_open_sizes(
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None = None,
    probes: Mapping[str, Any] | None = None,
) -> str:
    """The sizes that `closed_sizes` picked, in words; "" where no size but the batch is open."""
    picked = []
    for spec, closed in zip(inputs, closed_sizes(inputs, preprocessing, probes), strict=True):
        if any(not isinstance(size, int) for size in spec.shape[1:]):
            picked.append(f"{spec.name} {' x '.join(map(str, closed.shape[1:]))}")
    if not picked:
        return ""
    origin = "the preprocessing's size" if preprocessing is not None else f"{DEFAULT} where nothing states a size"
    if any(not isinstance(probe, str) for probe in (probes or {}).values()):
        origin += " or --probe gives one"
    return f"{', '.join(picked)} ({origin})"


def _size(size: Dim, fallback: int, known: dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    return known.setdefault(size, fallback) if isinstance(size, str) else fallback
