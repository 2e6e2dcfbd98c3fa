"""BatchNorm in eval mode as `y = scale * x + shift` per channel, and layers that absorb it exactly.

With s = gamma / sqrt(var + eps) and t = beta - mean * s (Ioffe and Szegedy: "Batch Normalization", arXiv:1502.03167,
section 3.1; folding as in Jacob et al.: "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", arXiv:1712.05877, section 3.2):

- BatchNorm behind a layer: W[o] *= s[o], b = b * s + t; the weight of a transposed convolution,
  W[groups * in/groups, out/groups, k..], is split into groups to reach its output axis;
- BatchNorm before a layer: b += sum_i W[:, i] * t[i], W[:, i] *= s[i]; for a convolution only without padding (padded
  zeros do not pass through BatchNorm), or where t = 0.

All arithmetic is done in float64 and rounded once. `fold` decides which BatchNorms may be absorbed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = ["ChannelAffine", "Layer", "absorb_after", "absorb_before", "affine_of", "output_channels"]

Layer = _ConvNd | nn.Linear
"""A layer linear in its input, up to a bias."""


@dataclass(frozen=True)
class ChannelAffine:
    """`y[:, c] = scale[c] * x[:, c] + shift[c]`; both are float64 vectors of the same length."""

    scale: Tensor
    shift: Tensor


def affine_of(batchnorm: _BatchNorm) -> ChannelAffine:
    """The affine map that `batchnorm` computes in eval mode; it must have running statistics."""
    assert batchnorm.running_mean is not None
    assert batchnorm.running_var is not None
    scale = torch.rsqrt(batchnorm.running_var.detach().double() + batchnorm.eps)
    if batchnorm.weight is not None:
        scale = batchnorm.weight.detach().double() * scale
    shift = -batchnorm.running_mean.detach().double() * scale
    if batchnorm.bias is not None:
        shift = batchnorm.bias.detach().double() + shift
    return ChannelAffine(scale, shift)


def output_channels(layer: Layer) -> int:
    """The number of output channels (or features) of `layer`."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


@torch.no_grad()
def absorb_after(layer: Layer, affine: ChannelAffine) -> None:
    """Make `layer` compute `affine(layer(x))`. It gets new parameters, so that tied copies keep their values."""
    weight = layer.weight.detach().double()
    if isinstance(layer, _ConvTransposeNd):
        split = _by_group(weight, layer.groups)  # [groups, in/g, out/g, k..]
        scale = affine.scale.view(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
        scaled = (split * scale).flatten(0, 1)
    else:
        scaled = weight * affine.scale.view(-1, *[1] * (weight.ndim - 1))
    _replace(layer, scaled, _bias(layer, affine.scale) * affine.scale + affine.shift)


@torch.no_grad()
def absorb_before(layer: Layer, affine: ChannelAffine) -> None:
    """Make `layer` compute `layer(affine(x))`. Exact only without zero padding, or where every shift is 0.

    `affine` has one entry per input channel, or one per group of adjacent input features of a Linear that
    follows a flattened map [N, C, H, W].
    """
    weight = layer.weight.detach().double()
    scale, shift = affine.scale, affine.shift
    if isinstance(layer, nn.Linear):
        repeats = layer.in_features // len(scale)
        scale, shift = scale.repeat_interleave(repeats), shift.repeat_interleave(repeats)
        _replace(layer, weight * scale, _bias(layer, scale) + weight @ shift)
        return
    kernel = [1] * (weight.ndim - 2)
    if isinstance(layer, _ConvTransposeNd):
        per_input = shift.view(-1, 1, *kernel) * weight  # [in, out/g, k..]
        added = _by_group(per_input, layer.groups).sum(dim=1).flatten(2).sum(dim=2).flatten()
        _replace(layer, weight * scale.view(-1, 1, *kernel), _bias(layer, scale) + added)
        return
    grouped = _by_group(weight, layer.groups)  # [groups, out/g, in/g, k..]
    shape = (layer.groups, 1, -1, *kernel)
    added = (grouped * shift.view(shape)).flatten(2).sum(dim=2).flatten()
    _replace(layer, (grouped * scale.view(shape)).flatten(0, 1), _bias(layer, scale) + added)


def _by_group(weight: Tensor, groups: int) -> Tensor:
    """Axis 0 split into [groups, rest]."""
    return weight.reshape(groups, -1, *weight.shape[1:])


def _bias(layer: Layer, like: Tensor) -> Tensor:
    """The bias in float64; zeros where there is none."""
    if layer.bias is None:
        return torch.zeros(output_channels(layer), dtype=torch.float64, device=like.device)
    return layer.bias.detach().double()


def _replace(layer: Layer, weight: Tensor, bias: Tensor) -> None:
    old = layer.weight
    layer.weight = nn.Parameter(weight.to(old.dtype), requires_grad=old.requires_grad)
    layer.bias = nn.Parameter(bias.to(old.dtype), requires_grad=old.requires_grad)
