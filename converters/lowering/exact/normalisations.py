"""Layer and RMS normalisation with the precision, broadcasting and extra results ONNX allows; Hardmax,
and normalisations over norms, moments and neighbouring channels.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["hardmax", "layer_normalize", "local_response", "lp_normalize", "mean_variance_normalize", "rms_normalize"]


def layer_normalize(
    x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, eps: float, in_float32: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise over the axes from `axis` on, in float32 if `in_float32`; also the means and inverse deviations."""
    axes = list(range(axis % x.dim(), x.dim()))
    values = x.float() if in_float32 else x
    mean = values.mean(axes, keepdim=True)
    centred = values - mean
    inverse = torch.reciprocal(torch.sqrt((centred * centred).mean(axes, keepdim=True) + eps))
    y = (centred * inverse).to(x.dtype) * scale
    return y if bias is None else y + bias, mean, inverse


def rms_normalize(x: Tensor, scale: Tensor, axis: int, eps: float, in_float32: bool) -> Tensor:
    """Divide by the root mean square over the axes from `axis` on, in float32 if `in_float32`."""
    axes = list(range(axis % x.dim(), x.dim()))
    values = x.float() if in_float32 else x
    y = values / torch.sqrt((values * values).mean(axes, keepdim=True) + eps)
    return y.to(x.dtype) * scale


def hardmax(x: Tensor, axis: int) -> Tensor:
    """One at the first maximum along `axis`, zero elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def lp_normalize(x: Tensor, p: int, axis: int) -> Tensor:
    """`x` divided by its p-norm along `axis`; zero where the norm is zero."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, 0, x / norm)


def mean_variance_normalize(x: Tensor, axes: list[int]) -> Tensor:
    """`(x - mean) / (deviation + 1e-9)` over `axes`."""
    mean = x.mean(axes, keepdim=True)
    variance = (x * x).mean(axes, keepdim=True) - mean * mean
    return (x - mean) / (variance.sqrt() + 1e-9)


def local_response(x: Tensor, size: int, alpha: float, beta: float, bias: float) -> Tensor:
    """`x / (bias + alpha / size * energy) ** beta`, energy over `size` channels, one more after than before if even."""
    squares = (x * x).flatten(2).transpose(1, 2)
    padded = F.pad(squares, [(size - 1) // 2, size // 2])
    energy = F.avg_pool1d(padded, size, 1).transpose(1, 2).reshape(x.shape)
    return x / (bias + alpha * energy) ** beta
