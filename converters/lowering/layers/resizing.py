"""Resize and Upsample: `F.interpolate` where it means the same, else written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import fx

from ..exact.resizing import resize, sizes_keeping_aspect
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import Dim, symbol_of

__all__: list[str] = []

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
_COORDINATES = frozenset(
    {
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_crop_and_resize",
        "tf_half_pixel_for_nn",
    }
)


@lowers("Upsample", since=7, until=10, seen=9)
@lowers("Resize", since=10, until=11, seen=10)
def upsample(op: Op) -> Lowered:
    """Upsample and the first Resize: by scales only; output i reads the input at `i / scale`, rounded down."""
    scales = op.attr_floats("scales") if op.opset < 9 else _numbers(op, 1)
    mode = _mode(op)
    factors: Any = op.method("tolist", op.x(1)) if scales is None else [float(scale) for scale in scales]
    native = _native(op, mode, "asymmetric", "floor", None, factors)
    if native is not None:
        return native
    return op.call(resize, op.x(0), list(range(op.rank(0))), None, factors, mode, "asymmetric", "floor")


@lowers("Resize", since=11, seen=19)
def resize_(op: Op) -> Lowered:
    """Resize from opset 11: by scales or to sizes, over all axes or some."""
    mode, coordinates = _mode(op), op.attr_string("coordinate_transformation_mode", "half_pixel")
    rounding = op.attr_string("nearest_mode", "round_prefer_floor")
    if coordinates not in _COORDINATES:
        raise op.refuse(f"coordinate_transformation_mode={coordinates} is unknown")
    if mode != "nearest" and not op.is_float(0):
        raise op.refuse(f"mode={mode} on {op.dtype(0).name}: rounding is not defined; cast to float first")
    rank = op.rank(0)
    axes = [axis % rank for axis in op.attr_ints("axes") or range(rank)]
    sizes, scales = _targets(op, axes)
    antialias, exclude = bool(op.attr_int("antialias", 0)), bool(op.attr_int("exclude_outside", 0))
    plain = not antialias and not exclude and axes == list(range(rank))
    plain = plain and op.attr_float("cubic_coeff_a", -0.75) == -0.75
    policy = op.attr_string("keep_aspect_ratio_policy", "stretch")
    if plain and policy == "stretch":
        native = _native(op, mode, coordinates, rounding, sizes, scales)
        if native is not None:
            return native
    options: dict[str, Any] = {}
    if antialias:
        options["antialias"] = True
    if exclude:
        options["exclude_outside"] = True
    if mode == "cubic":
        options["cubic_coefficient"] = op.attr_float("cubic_coeff_a", -0.75)
    if coordinates == "tf_crop_and_resize":
        region = _numbers(op, 1)
        options["region"] = op.method("tolist", op.x(1)) if region is None else [float(number) for number in region]
        options["outside"] = op.attr_float("extrapolation_value", 0.0)
    target: Any = sizes
    if sizes is not None and policy != "stretch":
        target = op.call(sizes_keeping_aspect, op.x(0), axes, sizes, policy == "not_smaller")
    return op.call(resize, op.x(0), axes, target, scales, mode, coordinates, rounding, **options)


def _mode(op: Op) -> str:
    mode = op.attr_string("mode", "nearest")
    mode = "linear" if mode == "bilinear" else mode
    if mode not in ("nearest", "linear", "cubic"):
        raise op.refuse(f"mode={mode} is unknown; re-export with nearest, linear or cubic")
    return mode


def _numbers(op: Op, index: int) -> Sequence[float] | None:
    array = op.constant(index)
    return None if array is None else [float(number) for number in array.reshape(-1)]


def _targets(op: Op, axes: Sequence[int]) -> tuple[Any, Any]:
    """Sizes and scales, one per axis; one of the two is None."""
    if op.has(3):
        sizes = op.integers(3)
        if isinstance(sizes, list) and len(sizes) != len(axes):
            raise op.refuse(f"{len(sizes)} sizes for {len(axes)} axes; re-export the model")
        return sizes, None
    scales = _numbers(op, 2)
    if scales is None and op.has(2):
        return None, op.method("tolist", op.x(2))
    if not scales or len(scales) != len(axes):
        raise op.refuse(f"{len(scales or ())} scales for {len(axes)} axes; re-export the model")
    return None, scales


def _native(op: Op, mode: str, coordinates: str, rounding: str, sizes: Any, scales: Any) -> fx.Node | None:
    """`F.interpolate`, if only spatial axes change and torch has the same coordinates; else None."""
    dims = op.shape(0)
    if dims is None or len(dims) not in _LINEAR:
        return None
    if isinstance(scales, list) and scales[:2] == [1, 1] and all(s == int(s) and s >= 1 for s in scales[2:]):
        target: dict[str, Any] = {"scale_factor": [float(scale) for scale in scales[2:]]}
    elif isinstance(sizes, list) and all(_is_size(size, dim) for size, dim in zip(sizes, dims[:2], strict=False)):
        target = {"size": sizes[2:]}
    else:
        return None
    if mode == "nearest":
        return _native_nearest(op, coordinates, rounding, target, scales)
    if mode == "cubic" and len(dims) != 4:
        return None
    grows = scales is not None or all(isinstance(size, int) and size > 1 for size in sizes[2:])
    same = coordinates in ("half_pixel", "align_corners") or (coordinates == "pytorch_half_pixel" and grows)
    if not same:
        return None
    torch_mode = _LINEAR[len(dims)] if mode == "linear" else "bicubic"
    return op.call(F.interpolate, op.x(0), **target, mode=torch_mode, align_corners=coordinates == "align_corners")


def _is_size(size: int | fx.Node, dim: Dim) -> bool:
    return dim is not None and symbol_of(size) == dim


def _native_nearest(op: Op, coordinates: str, rounding: str, target: dict[str, Any], scales: Any) -> fx.Node | None:
    """`F.interpolate` in mode nearest, if the factor is a whole number and the rounding repeats elements; else None."""
    if "scale_factor" not in target:
        dims = (op.shape(0) or ())[2:]
        pairs = list(zip(dims, target["size"], strict=True))
        if not all(isinstance(dim, int) and isinstance(size, int) and dim and size % dim == 0 for dim, size in pairs):
            return None
        scales = [size // dim for dim, size in pairs]
    else:
        scales = scales[2:]
    floors = rounding == "floor" or (rounding == "round_prefer_floor" and max(scales) <= 2)
    repeats = coordinates == "asymmetric" and floors
    centred = coordinates in ("half_pixel", "half_pixel_symmetric") and rounding.startswith("round_prefer")
    return op.call(F.interpolate, op.x(0), **target, mode="nearest") if repeats or centred else None
