"""Pad in all its modes, and CenterCropPad."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch.nn.functional as F
from torch import fx

from ..exact.padding import center_crop_pad, pad_axes, pad_from_content
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []

_NATIVE = {"reflect": "reflect", "edge": "replicate"}


@lowers("Pad", since=2, until=11, seen=2)
def pad_of_old_opsets(op: Op) -> Lowered:
    """Pad before opset 11: pads and value are attributes."""
    return _padded(op, list(op.attr_ints("pads", []) or []), list(range(op.rank(0))), op.attr_float("value", 0.0))


@lowers("Pad", since=11, seen=25)
def pad(op: Op) -> Lowered:
    """Pad from opset 11: pads, value and axes are inputs."""
    rank = op.rank(0)
    axes = op.constant(3)
    value: Any = 0.0
    if op.has(2):
        array = op.constant(2)
        value = op.method("item", op.x(2)) if array is None else array.reshape(-1)[0].item()
    elif op.dtype(0) == ir.DataType.FLOAT8E8M0 and _mode(op) == "constant":
        raise op.refuse("FLOAT8E8M0 has no zero to pad with; give constant_value")
    if op.has(3) and axes is None:
        return op.call(pad_axes, op.x(0), op.integers(3), op.integers(1), _mode(op), value)
    chosen = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    return _padded(op, op.integers(1), chosen, value)


def _mode(op: Op) -> str:
    mode = op.attr_string("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise op.refuse(f"mode={mode} is unknown; re-export with constant, edge, reflect or wrap")
    return mode


def _padded(op: Op, pads: Any, axes: list[int], value: Any) -> fx.Node:
    mode = _mode(op)
    if not isinstance(pads, list) or len(pads) != 2 * len(axes):
        raise op.refuse(f"expected {2 * len(axes)} pads, two per axis; re-export with fixed ones")
    rank = op.rank(0)
    pairs: dict[int, tuple[Any, Any]] = dict(zip(axes, zip(pads, pads[len(axes) :], strict=False), strict=True))
    ordered = [number for axis in reversed(range(rank)) for number in pairs.get(axis, (0, 0))]
    while len(ordered) > 2 and ordered[-2:] == [0, 0]:
        ordered = ordered[:-2]
    if mode == "constant":
        is_zero = not isinstance(value, fx.Node) and value == 0
        return op.call(F.pad, op.x(0), ordered, **({} if is_zero else {"value": value}))
    positive = all(isinstance(number, int) and number >= 0 for number in ordered)
    if mode in _NATIVE and rank == 4 and len(ordered) <= 4 and positive and _fits(op, ordered) and op.is_float(0):
        return op.call(F.pad, op.x(0), [*ordered, *[0] * (4 - len(ordered))], mode=_NATIVE[mode])
    return op.call(pad_from_content, op.x(0), axes, pads, mode)


def _fits(op: Op, ordered: list[Any]) -> bool:
    """Whether every pad is smaller than its axis, as torch requires."""
    dims = list(reversed(op.shape(0) or ()))
    return all(isinstance(dims[i // 2], int) and number < dims[i // 2] for i, number in enumerate(ordered))


@lowers("CenterCropPad", since=18, seen=18)
def center_crop_pad_(op: Op) -> Lowered:
    """Crop or pad axes around their middle."""
    rank = op.rank(0)
    axes = [axis % rank for axis in op.attr_ints("axes") or range(rank)]
    return op.call(center_crop_pad, op.x(0), axes, op.integers(1))
