"""The operations that an edge of a cell may carry: features [N, C, H, W] -> [N, C, ceil(H/stride), ceil(W/stride)].

Those of DARTS (arXiv:1806.09055) that person re-identification uses (arXiv:1903.09776), and `noise` of the planted
space (space S4 of Zela et al.: "Understanding and Robustifying Differentiable Architecture Search", ICLR 2020,
arXiv:1909.09656). `affine` says whether BatchNorms have weights: not in a supernet, where they would scale against the
weights of the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....errors import InputError, nearest
from .part_attention import PartAttention

__all__ = ["Halving", "Noise", "Nothing", "build_operation"]


class Nothing(nn.Module):
    """Zeros."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Zeros of the output's shape."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """Draws of N(0, 1) of the output's shape, whatever the input, in training and in eval mode.

    Bad by design: a search over a space that holds it must not choose it.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Draws from torch's global generator of the input's device."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


class Halving(nn.Module):
    """ReLU; two 1 x 1 convolutions of stride 2, half the channels each, the second one row and column on; BatchNorm.

    Odd heights and widths get a row or column of zeros at the end, so that the second convolution sees their last one.
    """

    def __init__(self, inputs: int, outputs: int, *, affine: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, inputs, H, W] -> [N, outputs, ceil(H/2), ceil(W/2)]."""
        x = self.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        out: Tensor = self.bn(torch.cat([self.even(x), self.odd(shifted)], dim=1))
        return out


def conv_norm(inputs: int, outputs: int, *, affine: bool) -> nn.Sequential:
    """ReLU, 1 x 1 convolution, BatchNorm."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs, affine=affine))


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else Halving(channels, channels, affine=affine)


def _max3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(nn.MaxPool2d(3, stride, 1), nn.BatchNorm2d(channels, affine=affine))


def _avg3(channels: int, stride: int, affine: bool) -> nn.Module:
    pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=affine))


def _depthwise(channels: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def _sep3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(*_depthwise(channels, stride, 1, affine), *_depthwise(channels, 1, 1, affine))


def _dil3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(*_depthwise(channels, stride, 2, affine))


_BUILD: Mapping[str, Callable[[int, int, bool], nn.Module]] = {
    "none": lambda _, stride, __: Nothing(stride),
    "skip": _skip,
    "max3": _max3,
    "avg3": _avg3,
    "sep3": _sep3,
    "dil3": _dil3,
    "part": lambda channels, stride, affine: PartAttention(channels, stride, affine=affine),
    "noise": lambda _, stride, __: Noise(stride),
}


def build_operation(name: str, channels: int, stride: int, *, affine: bool) -> nn.Module:
    """The named operation with fresh weights, from and to `channels` channels.

    Args:
        name: of `space.OPERATIONS` or `space.PLANTED`.
        channels: C, at least 2.
        stride: 1 or 2.
        affine: whether its BatchNorms have weights.

    Raises:
        InputError: an unknown name.
    """
    if name not in _BUILD:
        raise InputError(f"unknown operation {name!r}; {nearest(name, _BUILD)}")
    return _BUILD[name](channels, stride, affine)
