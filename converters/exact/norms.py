"""Layer and RMS normalisation with the precision, broadcasting and extra results ONNX allows.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["layer_normalize", "rms_normalize"]


def layer_normalize(
    x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, eps: float, widen: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise over the axes from `axis` on, in float32 if `widen`; also the means and inverse deviations."""
    axes = list(range(axis % x.dim(), x.dim()))
    wide = x.float() if widen else x
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    inverse = torch.reciprocal(torch.sqrt((centred * centred).mean(axes, keepdim=True) + eps))
    y = (centred * inverse).to(x.dtype) * scale
    return y if bias is None else y + bias, mean, inverse


def rms_normalize(x: Tensor, scale: Tensor, axis: int, eps: float, widen: bool) -> Tensor:
    """Divide by the root mean square over the axes from `axis` on, in float32 if `widen`."""
    axes = list(range(axis % x.dim(), x.dim()))
    wide = x.float() if widen else x
    y = wide / torch.sqrt((wide * wide).mean(axes, keepdim=True) + eps)
    return y.to(x.dtype) * scale
