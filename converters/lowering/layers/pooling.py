"""Pooling over windows and over whole feature maps: max, average, p-norm."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from ..exact.pooling import average_pool_padded, average_windows, flat_indices, max_windows, norm_windows
from ..operation import Lowered, Op
from ..registry import lowers
from .convolutions import pad_input
from .windows import Window, window_of

__all__: list[str] = []

_MAX: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MAX_WITH_INDICES: dict[int, Callable[..., Any]] = {
    1: F.max_pool1d_with_indices,
    2: F.max_pool2d_with_indices,
    3: F.max_pool3d_with_indices,
}
_AVERAGE: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(op: Op) -> Window:
    kernel = op.attr_ints("kernel_shape")
    if not kernel or len(kernel) not in _MAX:
        raise op.refuse(f"kernel_shape {kernel}; torch pools over 1 to 3 axes")
    return window_of(op, kernel)


def _short(values: list[int]) -> int | list[int]:
    """One number if all values are equal, as in hand-written code."""
    return values[0] if len(set(values)) == 1 else values


def _fits(window: Window) -> bool:
    """Whether torch accepts the padding: equal at both ends, at most half the kernel."""
    return window.is_symmetric and all(2 * p <= k for p, k in zip(window.begin, window.kernel, strict=True))


@lowers("MaxPool", since=1, seen=22)
def max_pool(op: Op) -> Lowered:
    """Maximum of each window."""
    window = _window(op)
    if op.uses_output(1):
        return _max_pool_with_indices(op, window)
    if not window.same and not _fits(window) and (op.attr_int("ceil_mode", 0) or not op.is_float(0)):
        geometry = (window.kernel, window.stride, window.dilation, window.begin, window.end)
        return op.call(max_windows, op.x(0), *geometry, bool(op.attr_int("ceil_mode", 0)))
    padding, x = (window.begin, op.x(0)) if _fits(window) else (None, _pad_with_lowest(op, window))
    options: dict[str, Any] = {"stride": _short(window.stride)}
    if padding and any(padding):
        options["padding"] = _short(padding)
    if set(window.dilation) != {1}:
        options["dilation"] = _short(window.dilation)
    if op.attr_int("ceil_mode", 0):
        options["ceil_mode"] = True
    return op.call(_MAX[len(window.kernel)], x, _short(window.kernel), **options)


def _max_pool_with_indices(op: Op, window: Window) -> Lowered:
    """Maxima and their flat positions in the whole input."""
    dims = op.shape(0)
    if not _fits(window) or dims is None or not all(isinstance(dim, int) for dim in dims[2:]):
        raise op.refuse("its Indices output is used with unequal paddings or unknown sizes; re-export without it")
    pool = _MAX_WITH_INDICES[len(window.kernel)]
    geometry = (window.kernel, window.stride, window.begin, window.dilation, bool(op.attr_int("ceil_mode", 0)))
    both = op.call(pool, op.x(0), *geometry)
    column_major = bool(op.attr_int("storage_order", 0))
    indices = op.call(flat_indices, op.call(operator.getitem, both, 1), list(dims[2:]), column_major)
    return op.call(operator.getitem, both, 0), indices


def _pad_with_lowest(op: Op, window: Window) -> fx.Node:
    if window.is_symmetric:
        return op.call(F.pad, op.x(0), window.torch_pads, value=float("-inf"))
    return pad_input(op, window, float("-inf"))


@lowers("AveragePool", since=1, seen=22)
def average_pool(op: Op) -> Lowered:
    """Mean of each window."""
    window = _window(op)
    include_pad = bool(op.attr_int("count_include_pad", 0))
    kernel, stride = _short(window.kernel), _short(window.stride)
    plain = set(window.dilation) == {1} and not window.same
    if plain and _fits(window) and not (op.attr_int("ceil_mode", 0) and any(window.begin)):
        options: dict[str, Any] = {"stride": stride}
        if any(window.begin):
            options |= {"padding": _short(window.begin), "count_include_pad": include_pad}
        if op.attr_int("ceil_mode", 0):
            options["ceil_mode"] = True
        return op.call(_AVERAGE[len(window.kernel)], op.x(0), kernel, **options)
    if window.same:
        raise op.refuse("auto_pad on unknown sizes; re-export with explicit pads")
    if not plain or op.attr_int("ceil_mode", 0):
        geometry = (window.kernel, window.stride, window.dilation, window.begin, window.end)
        return op.call(average_windows, op.x(0), *geometry, bool(op.attr_int("ceil_mode", 0)), include_pad)
    return op.call(average_pool_padded, op.x(0), window.kernel, window.stride, window.torch_pads, include_pad)


def _spatial_axes(op: Op) -> list[int]:
    return list(range(2, op.rank(0)))


@lowers("GlobalAveragePool", since=1, seen=22)
def global_average_pool(op: Op) -> Lowered:
    """Mean over the spatial axes, which get size 1."""
    if op.rank(0) == 4:
        return op.call(F.adaptive_avg_pool2d, op.x(0), 1)
    return op.call(torch.mean, op.x(0), _spatial_axes(op), keepdim=True)


@lowers("GlobalMaxPool", since=1, seen=22)
def global_max_pool(op: Op) -> Lowered:
    """Maximum over the spatial axes, which get size 1."""
    return op.call(torch.amax, op.x(0), _spatial_axes(op), keepdim=True)


@lowers("LpPool", since=2, seen=22)
def lp_pool(op: Op) -> Lowered:
    """The p-norm of each window."""
    window = _window(op)
    if window.same:
        raise op.refuse("auto_pad on unknown sizes; re-export with explicit pads")
    geometry = (window.kernel, window.stride, window.dilation, window.begin, window.end)
    return op.call(norm_windows, op.x(0), op.attr_int("p", 2), *geometry, bool(op.attr_int("ceil_mode", 0)))


@lowers("GlobalLpPool", since=2, seen=22)
def global_lp_pool(op: Op) -> Lowered:
    """The p-norm over the spatial axes, which get size 1."""
    return op.call(torch.linalg.vector_norm, op.x(0), op.attr_int("p", 2), _spatial_axes(op), True)
