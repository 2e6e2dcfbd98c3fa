"""Sampling feature maps at fractional positions (regions of interest, deformable convolution), summing overlapping
blocks into an image, and putting pooled maxima back at their positions.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["deformable_convolution", "fold_blocks", "max_unpool", "roi_align", "roi_max_pool"]


def _axis_taps(positions: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two neighbours and their weights along one axis; positions more than one pixel outside have weight 0."""
    inside = ((positions >= -1) & (positions <= size)).to(positions.dtype)
    clamped = positions.clamp(0, size - 1)
    low = clamped.floor()
    fraction = clamped - low
    high = (low + 1).clamp(max=size - 1)
    return low.long(), high.long(), (1 - fraction) * inside, fraction * inside


def _sample_region(x: Tensor, box: Tensor, height: int, width: int, rows: int, columns: int, maximum: bool) -> Tensor:
    """Pool one feature map [C, H, W] over a box (left, top, bin width, bin height)."""
    steps_y = torch.arange(height * rows, dtype=x.dtype, device=x.device)
    steps_x = torch.arange(width * columns, dtype=x.dtype, device=x.device)
    top, bottom, w_top, w_bottom = _axis_taps(box[1] + (steps_y + 0.5) * box[3] / rows, x.size(1))
    left, right, w_left, w_right = _axis_taps(box[0] + (steps_x + 0.5) * box[2] / columns, x.size(2))
    corners = [
        x[:, ys][:, :, xs] * (wy.unsqueeze(1) * wx)
        for ys, wy in ((top, w_top), (bottom, w_bottom))
        for xs, wx in ((left, w_left), (right, w_right))
    ]
    if maximum:
        best = torch.stack(corners).amax(0)
        return best.reshape(-1, height, rows, width, columns).amax((2, 4))
    total = corners[0] + corners[1] + corners[2] + corners[3]
    return total.reshape(-1, height, rows, width, columns).mean((2, 4))


def roi_align(
    x: Tensor,
    boxes: Tensor,
    batch: Tensor,
    height: int,
    width: int,
    samples: int,
    scale: float,
    half_pixel: bool,
    maximum: bool,
) -> Tensor:
    """Pool `boxes` [R, 4] (x1, y1, x2, y2) of `x` [N, C, H, W] to [R, C, height, width].

    `samples` is the number per bin and axis; 0 means one per pixel of the bin. Bins give the mean of their samples, or
    the largest weighted corner if `maximum`.
    """
    corners = boxes * scale - (0.5 if half_pixel else 0.0)
    sizes = corners[:, 2:] - corners[:, :2]
    sizes = sizes if half_pixel else sizes.clamp(min=1.0)
    pooled = []
    for index in range(boxes.size(0)):
        bins = torch.stack((sizes[index, 0] / width, sizes[index, 1] / height))
        rows = samples if samples > 0 else math.ceil(float(bins[1]))
        columns = samples if samples > 0 else math.ceil(float(bins[0]))
        box = torch.cat((corners[index, :2], bins))
        pooled.append(_sample_region(x[batch[index]], box, height, width, rows, columns, maximum))
    return torch.stack(pooled) if pooled else x.new_zeros((0, x.size(1), height, width))


def roi_max_pool(x: Tensor, boxes: Tensor, height: int, width: int, scale: float) -> Tensor:
    """Maximum of whole-pixel bins of `boxes` [R, 5] (batch, x1, y1, x2, y2); empty bins give zero."""
    pooled = []
    for box in boxes:
        left, top, right, bottom = (math.floor(float(side) * scale + 0.5) for side in box[1:])
        rows, columns = max(bottom - top + 1, 1), max(right - left + 1, 1)
        feature = x[int(box[0])]
        for i in range(height):
            for j in range(width):
                ys = slice(max(top + i * rows // height, 0), max(top - (-(i + 1) * rows // height), 0))
                xs = slice(max(left + j * columns // width, 0), max(left - (-(j + 1) * columns // width), 0))
                part = feature[:, ys, xs]
                pooled.append(part.amax((1, 2)) if part.numel() else part.new_zeros(part.size(0)))
    if not pooled:
        return x.new_zeros((0, x.size(1), height, width))
    return torch.stack(pooled).reshape(-1, height, width, x.size(1)).permute(0, 3, 1, 2)


def deformable_convolution(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
) -> Tensor:
    """Convolve `x` [N, C, H, W] with taps moved by `offset` [N, offset_groups * taps * 2, OH, OW] (y before x).

    `pads` are those before rows and columns; a tap outside the input reads zeros.
    """
    n, channels, height, width = x.shape
    rows, columns = weight.shape[2:]
    taps, (out_h, out_w) = rows * columns, offset.shape[2:]
    moved = offset.reshape(n, offset_groups, taps, 2, out_h, out_w)
    base_y = torch.arange(out_h, dtype=x.dtype, device=x.device) * stride[0] - pads[0]
    base_x = torch.arange(out_w, dtype=x.dtype, device=x.device) * stride[1] - pads[1]
    tap_y = torch.arange(rows, dtype=x.dtype, device=x.device).repeat_interleave(columns) * dilation[0]
    tap_x = torch.arange(columns, dtype=x.dtype, device=x.device).repeat(rows) * dilation[1]
    ys = moved[:, :, :, 0] + tap_y.reshape(-1, 1, 1) + base_y.reshape(-1, 1)
    xs = moved[:, :, :, 1] + tap_x.reshape(-1, 1, 1) + base_x
    grid = torch.stack(((2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1), -1)
    grid = grid.reshape(n * offset_groups, taps * out_h, out_w, 2)
    maps = x.reshape(n * offset_groups, channels // offset_groups, height, width)
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    sampled = sampled.reshape(n, offset_groups, channels // offset_groups, taps, out_h, out_w)
    if mask is not None:
        sampled = sampled * mask.reshape(n, offset_groups, 1, taps, out_h, out_w)
    sampled = sampled.reshape(n, groups, channels // groups, taps, out_h, out_w)
    kernels = weight.reshape(groups, weight.size(0) // groups, channels // groups, taps)
    y = torch.einsum("ngcthw,goct->ngohw", sampled, kernels).reshape(n, weight.size(0), out_h, out_w)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


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
