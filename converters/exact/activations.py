"""Hardmax and normalisations over norms, moments and neighbouring channels, as ONNX defines them.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["hardmax", "local_response", "lp_normalize", "mean_variance_normalize"]


def hardmax(x: Tensor, axis: int) -> Tensor:
    """One at the first largest entry along `axis`, zero elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def lp_normalize(x: Tensor, p: int, axis: int) -> Tensor:
    """`x` over its norm along `axis`; zero where the norm is."""
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
