"""Less common activations: gated, thresholded and normalising functions, old Softmax, trigonometric functions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from ..exact.normalisations import hardmax, local_response, lp_normalize, mean_variance_normalize
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []

_PLAIN: dict[str, tuple[Callable[..., Any], int, int]] = {
    "Acos": (torch.acos, 7, 22),
    "Acosh": (torch.acosh, 9, 22),
    "Asin": (torch.asin, 7, 22),
    "Asinh": (torch.asinh, 9, 22),
    "Atan": (torch.atan, 7, 22),
    "Atanh": (torch.atanh, 9, 22),
    "Cosh": (torch.cosh, 9, 22),
    "Det": (torch.linalg.det, 11, 22),
    "Mish": (F.mish, 18, 22),  # arXiv:1908.08681
    "Round": (torch.round, 11, 22),
    "Sinh": (torch.sinh, 9, 22),
    "Tan": (torch.tan, 7, 22),
}
"""Operator -> function of one tensor, first opset, newest schema read."""


def _register(name: str, function: Callable[..., Any], since: int, seen: int) -> None:
    @lowers(name, since=since, seen=seen)
    def lowered(op: Op) -> Lowered:
        return op.call(function, op.x(0))


for _name, (_function, _since, _seen) in _PLAIN.items():
    _register(_name, _function, _since, _seen)


@lowers("Celu", since=12, seen=28)
def celu(op: Op) -> Lowered:
    """Continuously differentiable Elu (arXiv:1704.07483)."""
    return op.call(F.celu, op.x(0), op.attr_float("alpha", 1.0))


@lowers("Selu", since=6, seen=22)
def selu(op: Op) -> Lowered:
    """Scaled Elu (arXiv:1706.02515)."""
    alpha = op.attr_float("alpha", 1.67326319217681884765625)
    gamma = op.attr_float("gamma", 1.05070102214813232421875)
    return op.call(operator.mul, op.call(F.elu, op.x(0), alpha), gamma)


@lowers("ThresholdedRelu", since=10, seen=22)
def thresholded_relu(op: Op) -> Lowered:
    """`x` above `alpha`, else zero."""
    return op.call(F.threshold, op.x(0), op.attr_float("alpha", 1.0), 0.0)


@lowers("Shrink", since=9, seen=9)
def shrink(op: Op) -> Lowered:
    """`x - bias` above `lambd`, `x + bias` below `-lambd`, else zero."""
    threshold, bias = op.attr_float("lambd", 0.5), op.attr_float("bias", 0.0)
    x = op.x(0)
    below = op.call(torch.where, op.call(operator.lt, x, -threshold), op.call(operator.add, x, bias), 0)
    moved = op.call(torch.where, op.call(operator.gt, x, threshold), op.call(operator.sub, x, bias), below)
    return moved if op.is_float(0) else op.call(torch.Tensor.type_as, moved, x)


def _swish(op: Op) -> fx.Node:
    alpha = op.attr_float("alpha", 1.0)
    if alpha == 1.0:
        return op.call(F.silu, op.x(0))
    gate = op.call(torch.sigmoid, op.call(operator.mul, op.x(0), alpha))
    return op.call(operator.mul, op.x(0), gate)


@lowers("Swish", since=24, seen=24)
def swish(op: Op) -> Lowered:
    """`x * sigmoid(alpha * x)` (arXiv:1710.05941)."""
    return _swish(op)


@lowers("SwiGLU", since=28, seen=28)
def swiglu(op: Op) -> Lowered:
    """Swish of the first input times the second (arXiv:2002.05202)."""
    return op.call(operator.mul, _swish(op), op.x(1))


@lowers("Hardmax", since=1, seen=13)
def hardmax_(op: Op) -> Lowered:
    """One at the first maximum, zero elsewhere; before opset 13 over all axes from `axis` on."""
    if op.opset < 13:
        return _on_joined_axes(op, hardmax)
    return op.call(hardmax, op.x(0), op.attr_int("axis", -1))


@lowers("Softmax", since=1, until=13, seen=11)
def softmax_of_old_opsets(op: Op) -> Lowered:
    """Softmax over all axes from `axis` on together."""
    return _on_joined_axes(op, torch.softmax)


@lowers("LogSoftmax", since=1, until=13, seen=11)
def log_softmax_of_old_opsets(op: Op) -> Lowered:
    """Logarithm of softmax over all axes from `axis` on together."""
    return _on_joined_axes(op, torch.log_softmax)


def _on_joined_axes(op: Op, function: Callable[..., Any]) -> fx.Node:
    rank = op.rank(0)
    axis = op.attr_int("axis", 1)
    axis = axis + rank if axis < 0 else axis
    x = op.x(0)
    if axis == rank - 1:
        return op.call(function, x, axis)
    joined = op.call(function, op.call(torch.flatten, x, axis), -1)
    return op.method("view_as", joined, x)


@lowers("LpNormalization", since=1, seen=22)
def lp_normalization(op: Op) -> Lowered:
    """`x` divided by its norm along an axis; zeros stay zeros."""
    return op.call(lp_normalize, op.x(0), op.attr_int("p", 2), op.attr_int("axis", -1))


@lowers("MeanVarianceNormalization", since=9, seen=13)
def mean_variance_normalization(op: Op) -> Lowered:
    """`x` with zero mean and unit deviation over `axes`."""
    op.output_like_input()
    return op.call(mean_variance_normalize, op.x(0), op.attr_ints("axes", [0, 2, 3]))


@lowers("LRN", since=1, seen=13)
def local_response_normalization(op: Op) -> Lowered:
    """`x` divided by the energy of neighbouring channels; torch's window differs when its size is even."""
    size = op.attr_int("size")
    factors = (op.attr_float("alpha", 1e-4), op.attr_float("beta", 0.75), op.attr_float("bias", 1.0))
    return op.call(F.local_response_norm if size % 2 else local_response, op.x(0), size, *factors)
