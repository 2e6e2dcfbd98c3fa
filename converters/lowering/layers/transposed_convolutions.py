"""Transposed convolutions: `nn.ConvTransposeNd`, cropped afterwards where begin and end paddings differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []

_MODULES: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_FUNCTIONS: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@dataclass(frozen=True)
class _Geometry:
    """One list entry per spatial axis; `extra` is ONNX's output_padding."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    begin: list[int]
    end: list[int]
    extra: list[int]


def _sizes(op: Op) -> list[int]:
    dims = op.shape(0)
    if dims is None or not all(isinstance(dim, int) for dim in dims[2:]):
        raise op.refuse("output_shape or auto_pad on unknown sizes; re-export with explicit pads")
    return [dim for dim in dims[2:] if isinstance(dim, int)]


def _geometry(op: Op, kernel: list[int]) -> _Geometry:
    axes = len(kernel)
    stated = op.attr_ints("kernel_shape", kernel)
    if stated != kernel:
        raise op.refuse(f"kernel_shape {stated} contradicts its weight, whose kernel is {kernel}; re-export it")
    stride, dilation = op.attr_ints("strides") or [1] * axes, op.attr_ints("dilations") or [1] * axes
    extra = op.attr_ints("output_padding") or [0] * axes
    wanted, mode = op.attr_ints("output_shape"), op.attr_string("auto_pad", "NOTSET")
    if wanted is None and mode not in ("SAME_UPPER", "SAME_LOWER"):
        pads = (op.attr_ints("pads") if mode != "VALID" else None) or [0] * (2 * axes)
        return _Geometry(kernel, stride, dilation, pads[:axes], pads[axes:], extra)
    sizes = _sizes(op)
    if wanted is None:
        wanted = [size * step for size, step in zip(sizes, stride, strict=True)]
    begin, end = [], []
    for a, target in enumerate(wanted[-axes:]):
        total = stride[a] * (sizes[a] - 1) + extra[a] + (kernel[a] - 1) * dilation[a] + 1 - target
        if total < 0 and not op.has_attribute("output_shape"):
            raise op.refuse(f"auto_pad={mode} asks for more than the kernel reaches; re-export with explicit pads")
        if total < 0:
            extra[a], total = extra[a] - total, 0
        small = total // 2
        begin.append(small if mode == "SAME_UPPER" else total - small)
        end.append(total - small if mode == "SAME_UPPER" else small)
    return _Geometry(kernel, stride, dilation, begin, end, extra)


@lowers("ConvTranspose", since=1, seen=22, trainable=True)
def conv_transpose(op: Op) -> Lowered:
    """`nn.ConvTransposeNd`."""
    shape = op.shape(1)
    if shape is None or not all(isinstance(dim, int) for dim in shape[2:]) or len(shape) - 2 not in _MODULES:
        raise op.refuse("the kernel size is unknown or not over 1 to 3 axes; give the weight a fixed shape")
    geometry = _geometry(op, [dim for dim in shape[2:] if isinstance(dim, int)])
    limits = [max(step, reach) for step, reach in zip(geometry.stride, geometry.dilation, strict=True)]
    if any(extra >= limit for extra, limit in zip(geometry.extra, limits, strict=True)):
        raise op.refuse(f"output_padding {geometry.extra} reaches beyond strides and dilations; torch refuses it too")
    even = geometry.begin == geometry.end and min(geometry.begin, default=0) >= 0
    y = _convolved(op, geometry, geometry.begin if even else [0] * len(geometry.kernel))
    if even:
        return y
    pairs = list(zip(geometry.begin, geometry.end, strict=True))
    return op.call(F.pad, y, [-number for pair in reversed(pairs) for number in pair])


def _convolved(op: Op, geometry: _Geometry, padding: list[int]) -> fx.Node:
    axes, group = len(geometry.kernel), op.attr_int("group", 1)
    shape = op.shape(1) or ()
    if not op.is_weight(1) or (op.has(2) and not op.is_weight(2)):
        bias = op.x(2) if op.has(2) else None
        arguments = (bias, geometry.stride, padding, geometry.extra, group, geometry.dilation)
        return op.call(_FUNCTIONS[axes], op.x(0), op.x(1), *arguments)
    inputs, outputs = shape[0], shape[1]
    if not isinstance(inputs, int) or not isinstance(outputs, int) or group < 1 or inputs % group:
        raise op.refuse(f"weight {list(shape)} does not fit {group} groups; re-export the model")
    options: dict[str, Any] = {
        "in_channels": inputs,
        "out_channels": outputs * group,
        "kernel_size": tuple(geometry.kernel),
        "stride": tuple(geometry.stride),
        "padding": tuple(padding),
        "output_padding": tuple(geometry.extra),
        "groups": group,
        "bias": op.has(2),
        "dilation": tuple(geometry.dilation),
    }
    weights = {"weight": op.weight(1)} | ({"bias": op.weight(2)} if op.has(2) else {})
    return op.module(_MODULES[axes], options, op.x(0), weights=weights)
