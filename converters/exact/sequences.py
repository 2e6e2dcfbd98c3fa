"""Positions and caches of sequence models: rotary embeddings, cache updates.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotary_embedding", "update_cache"]


def rotary_embedding(
    x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, interleaved: bool, size: int
) -> Tensor:
    """Rotate the first `size` features (all if 0) of `x` [B, H, L, D] by the angles of its positions.

    `cos` and `sin` are [positions, size / 2] when `positions` [B, L] are given, else [B, L, size / 2].
    """
    size = size or x.size(-1)
    turned, rest = x[..., :size], x[..., size:]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        turned = torch.stack((real, imaginary), -1).flatten(-2)
    else:
        turned = torch.cat((real, imaginary), -1)
    return torch.cat((turned, rest), -1)


def update_cache(cache: Tensor, update: Tensor, starts: Tensor | None, axis: int, circular: bool) -> Tensor:
    """`cache` with `update` written along `axis`, for each sample from its own start on."""
    axis = axis % cache.dim()
    steps = torch.arange(update.size(axis), device=cache.device)
    first = torch.zeros(cache.size(0), dtype=torch.int64, device=cache.device) if starts is None else starts
    positions = first.unsqueeze(1) + steps
    if circular:
        positions = positions % cache.size(axis)
    shape = [1] * cache.dim()
    shape[0], shape[axis] = positions.shape
    return cache.scatter(axis, positions.reshape(shape).expand_as(update), update)
