"""Putting pieces back: overlapping blocks summed into an image, pooled maxima returned to where they were.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["fold_blocks", "max_unpool"]


def fold_blocks(
    x: Tensor,
    image: Sequence[int],
    block: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Sum blocks [N, C * prod(block), L] into [N, C, *image]; `pads` has all begins before all ends."""
    axes = len(image)
    sizes = [image[a] + pads[a] + pads[axes + a] for a in range(axes)]
    counts = [(sizes[a] - dilation[a] * (block[a] - 1) - 1) // stride[a] + 1 for a in range(axes)]
    taps = math.prod(block)
    pieces = x.reshape([x.size(0), x.size(1) // taps, taps, *counts])
    total = x.new_zeros([x.size(0), x.size(1) // taps, *sizes])
    for tap in range(taps):
        where, rest = [slice(None), slice(None)], tap
        places = []
        for axis in reversed(range(axes)):
            places.append((axis, rest % block[axis]))
            rest //= block[axis]
        for axis, place in reversed(places):
            start = place * dilation[axis]
            where.append(slice(start, start + stride[axis] * (counts[axis] - 1) + 1, stride[axis]))
        total[tuple(where)] += pieces[:, :, tap]
    inner = tuple(slice(pads[a], pads[a] + image[a]) for a in range(axes))
    return total[(slice(None), slice(None), *inner)]


def max_unpool(x: Tensor, indices: Tensor, inferred: Sequence[int], shape: Sequence[int] | None) -> Tensor:
    """Entries at their flat positions in a tensor of zeros of the inferred shape, then extended to `shape`."""
    full = [x.size(0), x.size(1), *inferred]
    flat = torch.zeros(math.prod(full), dtype=x.dtype, device=x.device)
    y = flat.scatter(0, indices.flatten(), x.flatten()).reshape(full)
    if shape is None or list(shape) == full:
        return y
    extended = x.new_zeros(list(shape))
    extended[tuple(slice(0, size) for size in full)] = y
    return extended
