"""Convolutions: `nn.ConvNd` when the weights are constants, functions when they are computed at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from ..exact.padding import pad_same
from ..operation import Lowered, Op
from ..registry import lowers
from .windows import Window, window_of

__all__: list[str] = []

_MODULES: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_FUNCTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@lowers("Conv", since=1, seen=22, trainable=True)
def conv(op: Op) -> Lowered:
    """`nn.ConvNd`, behind a separate padding where begin and end differ."""
    shape = op.shape(1)
    if shape is None or not all(isinstance(dim, int) for dim in shape[2:]):
        raise op.refuse("the kernel size is unknown; give the weight a fixed shape")
    kernel = [int(dim) for dim in shape[2:] if isinstance(dim, int)]
    if len(kernel) not in _MODULES:
        raise op.refuse(f"{len(kernel)} spatial axes; torch convolves over 1 to 3")
    window = window_of(op, kernel)
    x = pad_input(op, window)
    padding = window.begin if window.is_symmetric else [0] * len(kernel)
    group = op.attr_int("group", 1)
    if not op.is_weight(1) or (op.has_bias(2) and not op.is_weight(2)):
        bias = op.x(2) if op.has_bias(2) else None
        function = _FUNCTIONS[len(kernel)]
        return op.call(function, x, op.x(1), bias, window.stride, padding, window.dilation, group)
    return _module(op, x, window, padding, group)


def _module(op: Op, x: fx.Node, window: Window, padding: list[int], group: int) -> fx.Node:
    shape = op.shape(1) or ()
    outputs, inputs = shape[0], shape[1]
    if not isinstance(outputs, int) or not isinstance(inputs, int) or group < 1 or outputs % group:
        raise op.refuse(f"weight {list(shape)} does not fit {group} groups; re-export the model")
    for given in (op.shape(0) or ())[1:2]:
        if isinstance(given, int) and given != inputs * group:
            raise op.refuse(
                f"weight {list(shape)} of {group} groups expects {inputs * group} channels, the input has {given}; "
                "the file is damaged, re-export it"
            )
    options: dict[str, Any] = {
        "in_channels": inputs * group,
        "out_channels": outputs,
        "kernel_size": tuple(window.kernel),
        "stride": tuple(window.stride),
        "padding": tuple(padding),
        "dilation": tuple(window.dilation),
        "groups": group,
        "bias": op.has_bias(2),
    }
    weights = {"weight": op.weight(1)} | ({"bias": op.weight(2)} if op.has_bias(2) else {})
    return op.module(_MODULES[len(window.kernel)], options, x, weights=weights)


def pad_input(op: Op, window: Window, value: float = 0.0) -> fx.Node:
    """Input 0, padded with `value` where torch's symmetric `padding` cannot do it."""
    x = op.x(0)
    if window.same:
        upper = window.same == "upper"
        return op.call(pad_same, x, window.kernel, window.stride, window.dilation, upper, value)
    if window.is_symmetric:
        return x
    return op.call(F.pad, x, window.torch_pads, **({"value": value} if value else {}))
