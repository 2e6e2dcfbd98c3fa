"""Activations and other element-wise functions of one tensor, Softmax among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []

_PLAIN: dict[str, tuple[Callable[..., Any], int, int]] = {
    "Abs": (torch.abs, 1, 13),
    "Ceil": (torch.ceil, 1, 13),
    "Cos": (torch.cos, 7, 22),
    "Erf": (torch.erf, 9, 13),
    "Exp": (torch.exp, 1, 13),
    "Floor": (torch.floor, 1, 13),
    "Log": (torch.log, 1, 13),
    "Neg": (torch.neg, 1, 13),
    "Reciprocal": (torch.reciprocal, 1, 13),
    "Relu": (F.relu, 1, 14),
    "Sigmoid": (torch.sigmoid, 1, 13),
    "Sign": (torch.sign, 9, 13),
    "Sin": (torch.sin, 7, 22),
    "Softplus": (F.softplus, 1, 22),
    "Softsign": (F.softsign, 1, 22),
    "Sqrt": (torch.sqrt, 1, 13),
    "Tanh": (torch.tanh, 1, 13),
}
"""Operator -> function of one tensor, first opset, newest schema read."""


def _register(operator: str, function: Callable[..., Any], since: int, seen: int) -> None:
    @lowers(operator, since=since, seen=seen)
    def lowered(op: Op) -> Lowered:
        return op.call(function, op.x(0))


for _operator, (_function, _since, _seen) in _PLAIN.items():
    _register(_operator, _function, _since, _seen)


@lowers("LeakyRelu", since=1, seen=16)
def leaky_relu(op: Op) -> Lowered:
    """`x` above zero, `alpha * x` below."""
    return op.call(F.leaky_relu, op.x(0), op.attr_float("alpha", 0.01))


@lowers("Elu", since=1, seen=22)
def elu(op: Op) -> Lowered:
    """`x` above zero, `alpha * (exp(x) - 1)` below (arXiv:1511.07289)."""
    return op.call(F.elu, op.x(0), op.attr_float("alpha", 1.0))


@lowers("HardSigmoid", since=1, seen=22)
def hard_sigmoid(op: Op) -> Lowered:
    """`clamp(alpha * x + beta, 0, 1)`; torch's function fixes alpha to 1/6."""
    alpha, beta = op.attr_float("alpha", 0.2), op.attr_float("beta", 0.5)
    # One fused step: where beta cancels the product, the rounding of the product would be all that is left.
    line = op.call(torch.add, op.method("new_full", op.x(0), (), beta), op.x(0), alpha=alpha)
    return op.call(torch.clamp, line, 0.0, 1.0)


@lowers("HardSwish", since=14, seen=22)
def hard_swish(op: Op) -> Lowered:
    """`x * relu6(x + 3) / 6` (MobileNetV3, arXiv:1905.02244)."""
    return op.call(F.hardswish, op.x(0))


@lowers("Gelu", since=20, seen=20)
def gelu(op: Op) -> Lowered:
    """`x * Phi(x)`, exact or approximated with tanh (arXiv:1606.08415)."""
    approximate = op.attr_string("approximate", "none")
    return op.call(F.gelu, op.x(0), **({} if approximate == "none" else {"approximate": approximate}))


@lowers("PRelu", since=7, seen=16, trainable=True)
def prelu(op: Op) -> Lowered:
    """`nn.PReLU` for one slope or one per channel, else written out (arXiv:1502.01852)."""
    channels = _channels_of_slope(op)
    if channels is not None:
        weights = {"weight": op.weight(1, "reshape", (channels,))}
        return op.module(nn.PReLU, {"num_parameters": channels}, op.x(0), weights=weights)
    x = op.x(0)
    return op.call(torch.where, op.call(torch.lt, x, 0), op.call(torch.mul, op.x(1), x), x)


@lowers("PRelu", since=1, until=7, seen=6, trainable=True)
def prelu_of_old_opsets(op: Op) -> Lowered:
    """PRelu whose slope is one number, or a vector over axis 1."""
    if not op.is_weight(1):
        return op.call(F.prelu, op.x(0), op.x(1))
    size = op.weight(1).value.const_value
    assert size is not None
    weights = {"weight": op.weight(1, "reshape", (size.size,))}
    return op.module(nn.PReLU, {"num_parameters": size.size}, op.x(0), weights=weights)


def _channels_of_slope(op: Op) -> int | None:
    """The number of slopes of an `nn.PReLU`; None when the slope varies over other axes than the channels."""
    shape = op.shape(1)
    if not op.is_weight(1) or shape is None or not op.is_float(1):
        return None
    rank = op.rank(0)
    if all(dim == 1 for dim in shape):
        return 1
    padded = (1,) * (rank - len(shape)) + shape
    if len(padded) != rank or rank < 2 or any(dim != 1 for axis, dim in enumerate(padded) if axis != 1):
        return None
    channels = padded[1]
    return channels if isinstance(channels, int) and channels == _dim(op, 1) else None


def _dim(op: Op, axis: int) -> object:
    shape = op.shape(0)
    return None if shape is None else shape[axis]


@lowers("Clip", since=1, seen=13)
def clip(op: Op) -> Lowered:
    """Clamp to bounds, which are attributes before opset 11 and inputs from then on."""
    if op.opset < 11:
        low: Any = op.attr_float("min", -3.4028234663852886e38) if op.has_attribute("min") else None
        high: Any = op.attr_float("max", 3.4028234663852886e38) if op.has_attribute("max") else None
    else:
        low, high = _bound(op, 1), _bound(op, 2)
    x = op.x(0)
    if low is None and high is None:
        return x
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        x = op.call(torch.maximum, x, op.x(1)) if low is not None else x
        return op.call(torch.minimum, x, op.x(2)) if high is not None else x
    if (low, high) == (0.0, 6.0) and op.is_float(0):
        return op.call(F.relu6, x)  # as in torch code; the gradient of clamp takes ten times as long on a CPU
    # Where the lower bound exceeds the upper one, both ONNX and torch.clamp give the upper one.
    return op.call(torch.clamp, x, low, high)


def _bound(op: Op, index: int) -> Any:
    if not op.has(index):
        return None
    array = op.constant(index)
    if array is None:
        return op.x(index)
    bound = array.reshape(-1)[0]
    return float(str(bound)) if array.dtype == np.float32 else bound.item()


@lowers("Softmax", since=13, seen=13)
def softmax(op: Op) -> Lowered:
    """Softmax over one axis."""
    return op.call(torch.softmax, op.x(0), op.attr_int("axis", -1))


@lowers("LogSoftmax", since=13, seen=13)
def log_softmax(op: Op) -> Lowered:
    """Logarithm of softmax over one axis."""
    return op.call(torch.log_softmax, op.x(0), op.attr_int("axis", -1))


@lowers("Identity", since=1, seen=25)
def identity(op: Op) -> Lowered:
    """The input itself; known numbers stay known."""
    known = op.known(0)
    return known if known is not None else op.x(0)


@lowers("Dropout", since=7, seen=22)
def dropout(op: Op) -> Lowered:
    """The input itself; a `training_mode` input that is not the constant false is refused."""
    training = op.constant(2)
    if op.has(2) and (training is None or bool(training)):
        raise op.refuse("training_mode is not the constant false; re-export in eval mode")
    if op.uses_output(1):
        x = op.x(0)
        return x, op.call(torch.ones_like, x, dtype=torch.bool)
    return op.x(0)
