"""Arithmetic on unsigned integers of 16, 32 and 64 bits, for which torch stores tensors but has no kernels.

16 and 32 bits are computed in int64 and wrapped back; uint64 is reinterpreted as int64, whose sums, differences and
products have the same bits. Overflow wraps, as in ONNX and NumPy.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "unsigned_add",
    "unsigned_div",
    "unsigned_greater",
    "unsigned_greater_equal",
    "unsigned_invert",
    "unsigned_maximum",
    "unsigned_minimum",
    "unsigned_mul",
    "unsigned_remainder",
    "unsigned_shift_left",
    "unsigned_shift_right",
    "unsigned_sub",
]

_TOP_BIT = -(2**63)


def _to_int64(x: Tensor) -> Tensor:
    """The same bits (uint64) or the same value (fewer bits) in int64."""
    return x.view(torch.int64) if x.dtype == torch.uint64 else x.to(torch.int64)


def _wrap(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.view(torch.uint64) if dtype == torch.uint64 else x.to(dtype)


def _ordered(x: Tensor) -> Tensor:
    """Int64 numbers that compare as the unsigned ones do."""
    return x.view(torch.int64) ^ _TOP_BIT if x.dtype == torch.uint64 else x.to(torch.int64)


def unsigned_add(a: Tensor, b: Tensor) -> Tensor:
    """Sum, wrapped."""
    return _wrap(_to_int64(a) + _to_int64(b), a.dtype)


def unsigned_sub(a: Tensor, b: Tensor) -> Tensor:
    """Difference, wrapped."""
    return _wrap(_to_int64(a) - _to_int64(b), a.dtype)


def unsigned_mul(a: Tensor, b: Tensor) -> Tensor:
    """Product, wrapped."""
    return _wrap(_to_int64(a) * _to_int64(b), a.dtype)


def unsigned_greater(a: Tensor, b: Tensor) -> Tensor:
    """Whether a > b."""
    return _ordered(a) > _ordered(b)


def unsigned_greater_equal(a: Tensor, b: Tensor) -> Tensor:
    """Whether a >= b."""
    return _ordered(a) >= _ordered(b)


def unsigned_maximum(a: Tensor, b: Tensor) -> Tensor:
    """The larger of two."""
    return torch.where(_ordered(a) >= _ordered(b), a, b)


def unsigned_minimum(a: Tensor, b: Tensor) -> Tensor:
    """The smaller of two."""
    return torch.where(_ordered(a) >= _ordered(b), b, a)


def unsigned_div(a: Tensor, b: Tensor) -> Tensor:
    """Quotient, rounded down."""
    signed_a, signed_b = _to_int64(a), _to_int64(b)
    if a.dtype != torch.uint64:
        return _wrap(torch.div(signed_a, signed_b, rounding_mode="trunc"), a.dtype)
    # A signed division of half the dividend gives the quotient but for its last bit.
    half = torch.div((signed_a >> 1) & ~_TOP_BIT, signed_b, rounding_mode="trunc") << 1
    rest = signed_a - half * signed_b
    small = half + ((rest ^ _TOP_BIT) >= (signed_b ^ _TOP_BIT)).to(torch.int64)
    large = (_ordered(a) >= _ordered(b)).to(torch.int64)
    return _wrap(torch.where(signed_b < 0, large, small), a.dtype)


def unsigned_remainder(a: Tensor, b: Tensor) -> Tensor:
    """Remainder of the division."""
    return _wrap(_to_int64(a) - _to_int64(unsigned_div(a, b)) * _to_int64(b), a.dtype)


def unsigned_invert(a: Tensor) -> Tensor:
    """Every bit flipped."""
    return _wrap(~_to_int64(a), a.dtype)


def unsigned_shift_left(a: Tensor, b: Tensor) -> Tensor:
    """Bits moved up, zeros moved in."""
    return _wrap(_to_int64(a) << _to_int64(b), a.dtype)


def unsigned_shift_right(a: Tensor, b: Tensor) -> Tensor:
    """Bits moved down, zeros moved in."""
    signed_a, signed_b = _to_int64(a), _to_int64(b)
    shifted = ((signed_a >> 1) & ~_TOP_BIT) >> (signed_b - 1).clamp(min=0)
    return _wrap(torch.where(signed_b == 0, signed_a, shifted), a.dtype)
