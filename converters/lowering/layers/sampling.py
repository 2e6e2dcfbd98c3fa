"""Sampling at fractional positions (grids, regions, deformable convolution) and its inverses (Col2Im, MaxUnpool)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from ..exact.sampling import deformable_convolution, fold_blocks, max_unpool, roi_align, roi_max_pool
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []

_MODES = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic", "nearest": "nearest"}


@lowers("GridSample", since=16, seen=22)
def grid_sample(op: Op) -> Lowered:
    """`F.grid_sample` on 2-D and 3-D maps (arXiv:1506.02025)."""
    mode, rank = op.attr_string("mode", "linear"), op.rank(0)
    if mode not in _MODES or rank not in (4, 5) or (rank == 5 and _MODES[mode] == "bicubic"):
        raise op.refuse(f"mode={mode} on {rank - 2} spatial axes; torch samples 2 (and 3, but not cubic)")
    padding = op.attr_string("padding_mode", "zeros")
    aligned = bool(op.attr_int("align_corners", 0))
    return op.call(F.grid_sample, op.x(0), op.x(1), mode=_MODES[mode], padding_mode=padding, align_corners=aligned)


@lowers("AffineGrid", since=20, seen=20)
def affine_grid(op: Op) -> Lowered:
    """`F.affine_grid` (arXiv:1506.02025)."""
    return op.call(F.affine_grid, op.x(0), op.integers(1), align_corners=bool(op.attr_int("align_corners", 0)))


@lowers("RoiAlign", since=10, seen=22)
def roi_align_(op: Op) -> Lowered:
    """Regions pooled at fractional positions (arXiv:1703.06870); before opset 16 without the half-pixel shift."""
    default = "half_pixel" if op.opset >= 16 else "output_half_pixel"
    coordinates, mode = op.attr_string("coordinate_transformation_mode", default), op.attr_string("mode", "avg")
    if coordinates not in ("half_pixel", "output_half_pixel") or mode not in ("avg", "max"):
        raise op.refuse(f"coordinate_transformation_mode={coordinates}, mode={mode} is unknown")
    return op.call(
        roi_align,
        op.x(0),
        op.x(1),
        op.x(2),
        op.attr_int("output_height", 1),
        op.attr_int("output_width", 1),
        op.attr_int("sampling_ratio", 0),
        op.attr_float("spatial_scale", 1.0),
        coordinates == "half_pixel",
        mode == "max",
    )


@lowers("MaxRoiPool", since=1, seen=22)
def max_roi_pool(op: Op) -> Lowered:
    """Maximum of whole-pixel bins per region."""
    shape = op.attr_ints("pooled_shape")
    if shape is None or len(shape) != 2:
        raise op.refuse(f"pooled_shape {shape}; expected height and width")
    return op.call(roi_max_pool, op.x(0), op.x(1), shape[0], shape[1], op.attr_float("spatial_scale", 1.0))


@lowers("DeformConv", since=19, seen=22)
def deform_conv(op: Op) -> Lowered:
    """Deformable convolution over two axes (arXiv:1703.06211; with a mask, arXiv:1811.11168)."""
    if op.rank(0) != 4:
        raise op.refuse(f"{op.rank(0) - 2} spatial axes; deformable convolution is defined here for 2")
    optional = [op.x(index) if op.has(index) else None for index in (3, 4)]
    return op.call(
        deformable_convolution,
        op.x(0),
        op.x(1),
        op.x(2),
        *optional,
        op.attr_ints("strides", [1, 1]),
        (op.attr_ints("pads", [0, 0, 0, 0]) or [])[:2],
        op.attr_ints("dilations", [1, 1]),
        op.attr_int("group", 1),
        op.attr_int("offset_group", 1),
    )


@lowers("Col2Im", since=18, seen=18)
def col2im(op: Op) -> Lowered:
    """`F.fold` for two axes with equal padding at both ends, else written out."""
    image, block = op.integers(1), op.integers(2)
    if not isinstance(image, list) or not isinstance(block, list):
        raise op.refuse("the number of spatial axes is unknown; re-export with fixed shapes")
    axes = len(image)
    stride, dilation = op.attr_ints("strides", [1] * axes), op.attr_ints("dilations", [1] * axes)
    pads = op.attr_ints("pads", [0] * (2 * axes)) or []
    if axes == 2 and pads[:2] == pads[2:]:
        return op.call(F.fold, op.x(0), image, block, dilation=dilation, padding=pads[:2], stride=stride)
    return op.call(fold_blocks, op.x(0), image, block, stride, pads, dilation)


@lowers("MaxUnpool", since=9, seen=22)
def max_unpool_(op: Op) -> Lowered:
    """Pooled maxima put back at their positions, zeros elsewhere."""
    kernel = op.attr_ints("kernel_shape") or []
    axes = len(kernel)
    stride = op.attr_ints("strides", [1] * axes) or []
    pads = op.attr_ints("pads", [0] * (2 * axes)) or []
    dims = op.shape(0)
    if dims is None or not all(isinstance(dim, int) for dim in dims[2:]):
        raise op.refuse("the spatial sizes are unknown; give the graph inputs fixed sizes")
    sizes: list[Any] = [int(dim or 0) for dim in dims[2:] if isinstance(dim, int)]
    inferred = [(n - 1) * stride[a] - pads[a] - pads[axes + a] + kernel[a] for a, n in enumerate(sizes)]
    return op.call(max_unpool, op.x(0), op.x(1), inferred, op.integers(2) if op.has(2) else None)
