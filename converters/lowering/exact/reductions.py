"""Reductions over several axes at once that torch does not have, or refuses for axes without entries.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["largest", "log_sum", "log_sum_exp", "product", "smallest", "sum_of_magnitudes", "sum_of_squares"]


def sum_of_magnitudes(x: Tensor, axes: list[int], keepdim: bool = False) -> Tensor:
    """Sum of absolute values."""
    return x.abs().sum(axes, keepdim=keepdim, dtype=x.dtype)


def sum_of_squares(x: Tensor, axes: list[int], keepdim: bool = False) -> Tensor:
    """Sum of squares."""
    return (x * x).sum(axes, keepdim=keepdim, dtype=x.dtype)


def log_sum(x: Tensor, axes: list[int], keepdim: bool = False) -> Tensor:
    """Logarithm of the sum."""
    return x.sum(axes, keepdim=keepdim).log()


def log_sum_exp(x: Tensor, axes: list[int], keepdim: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials, without overflow."""
    if x.numel() == 0:
        return log_sum(x.exp(), axes, keepdim)
    return torch.logsumexp(x, axes, keepdim)


def product(x: Tensor, axes: list[int], keepdim: bool = False) -> Tensor:
    """Product, in the dtype of the input."""
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keepdim, dtype=x.dtype)
    return x


def _lowest(dtype: torch.dtype) -> float:
    if dtype == torch.bool:
        return False
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float:
    if dtype == torch.bool:
        return True
    return torch.inf if dtype.is_floating_point else torch.iinfo(dtype).max


def largest(x: Tensor, axes: list[int], keepdim: bool = False) -> Tensor:
    """Maximum; the lowest number of the dtype where there are no entries."""
    if x.numel() == 0:
        return torch.full_like(x.sum(axes, keepdim=keepdim, dtype=x.dtype), _lowest(x.dtype))
    return torch.amax(x, axes, keepdim)


def smallest(x: Tensor, axes: list[int], keepdim: bool = False) -> Tensor:
    """Minimum; the highest number of the dtype where there are no entries."""
    if x.numel() == 0:
        return torch.full_like(x.sum(axes, keepdim=keepdim, dtype=x.dtype), _highest(x.dtype))
    return torch.amin(x, axes, keepdim)
