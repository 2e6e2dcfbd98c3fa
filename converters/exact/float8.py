"""Casts to 8-bit floats that saturate, or do not, as ONNX defines it; torch's own casts do neither alike.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cast_to_float8"]


def cast_to_float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """Round `x` to `dtype`. What is too large becomes the largest number if `saturate`, else infinity or NaN."""
    largest = torch.finfo(dtype).max
    if saturate:
        return torch.clamp(x.float(), -largest, largest).to(dtype)
    if dtype == torch.float8_e4m3fn:
        # torch saturates; 464 is halfway to where the next number would be.
        x = torch.where(x.abs() > 464.0, torch.nan, x.float())
    return x.to(dtype)
