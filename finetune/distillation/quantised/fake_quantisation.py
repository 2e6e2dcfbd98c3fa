"""Fake quantisation: values rounded to int8 levels in float32, with gradients for the values and for the step size.

The gradient of the step size is that of Esser et al., "Learned Step Size Quantization", arXiv:1902.08153; rounding
passes gradients straight through inside the range (Bengio et al., arXiv:1308.3432). torch's own learnable module
computes the same an order of magnitude slower on a CPU than a call of `fake_quantize_per_tensor_affine_cachemask`.

Weights and biases move in units of their channel's largest weight and step sizes by a factor, so that one learning rate
fits all layers: before int8, channels are evened out by powers of two, and absolute steps would mean nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MOST", "FakeActivation", "FakeWeight"]

_LOW, _HIGH = 0, 255
"""Levels of activations, uint8."""
_ROUND = torch.ops.aten.fake_quantize_per_tensor_affine_cachemask
MOST = 127
"""Largest level of weights, int8 and symmetric."""


class FakeActivation(nn.Module):
    """Values as uint8 levels of one step size; the zero point stays, as that of a Relu's output must."""

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.growth = nn.Parameter(torch.zeros(()))
        """Natural logarithm of the factor on the step size."""
        self.zero_point = zero_point
        self._first = scale

    @property
    def scale(self) -> float:
        """The step size, a float32 number."""
        return float(torch.tensor(self._first * math.exp(self.growth.item()), dtype=torch.float32))

    def forward(self, values: Tensor) -> Tensor:
        """Float32 of any shape, rounded to the levels."""
        rounded: Tensor = _RoundedActivation.apply(values, self.growth, self.scale, self.zero_point)  # type: ignore[no-untyped-call]
        return rounded


class _RoundedActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, _growth: Tensor, scale: float, zero_point: int) -> Tensor:
        rounded, inside = torch.ops.aten.fake_quantize_per_tensor_affine_cachemask(
            values, scale, zero_point, _LOW, _HIGH
        )
        ctx.save_for_backward(values, rounded, inside)
        found: Tensor = rounded
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, rounded, inside = ctx.saved_tensors
        # d rounded / d scale, times the scale, for the parameter is its logarithm: the level, less the value inside.
        step = (gradient * torch.where(inside, rounded - values, rounded)).sum()
        return gradient * inside, step / math.sqrt(values.numel() * _HIGH), None, None


class FakeWeight(nn.Module):
    """A weight as int8 levels with one step size per output channel (axis 0): its largest weight / 127."""

    def __init__(self, weight: Tensor) -> None:
        """Begin at `weight` float32 [C, ...]."""
        super().__init__()
        self.change = nn.Parameter(torch.zeros_like(weight))
        self.register_buffer("first", weight.detach().clone())
        self.register_buffer("unit", _largest(weight))

    first: Tensor
    unit: Tensor

    @property
    def step(self) -> Tensor:
        """Width of a level, [C, 1, ...]; it stays, so that levels which were chosen stay what they are."""
        return self.unit / MOST

    def begin_at(self, weight: Tensor) -> None:
        """Begin at other values before rounding, with the same step sizes."""
        self.first = weight

    def float32(self) -> Tensor:
        """The weight before rounding."""
        return self.first + self.unit * self.change

    def levels(self) -> Tensor:
        """Levels -127..127 as float32."""
        return torch.round(self.float32().detach() / self.step).clamp(-MOST, MOST)

    def forward(self) -> Tensor:
        """The rounded weight."""
        weight = self.float32()
        return weight + (self.levels() * self.step - weight).detach()


def _largest(weight: Tensor) -> Tensor:
    """The largest magnitude of each channel, [C, 1, ...]; that of a channel of zeros is tiny."""
    largest = weight.detach().flatten(1).abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny * 2**10)
    return largest.reshape(-1, *[1] * (weight.ndim - 1))
