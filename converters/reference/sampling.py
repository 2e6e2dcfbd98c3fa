"""Resampling that onnx's reference evaluator computes wrongly or not at all, by the definition in the standard.

1. GridSample rounds coordinates to float32 whatever the type of the grid; with mode cubic and padding border it moves
   the centre of the four samples instead of each sample; it does not know the names of opset 16 (bilinear, bicubic).
2. Resize of opset 10 and Upsample are asymmetric and take the floor; the evaluator reads the third input of later
   opsets, and of Upsample has whole factors of mode nearest alone.

Source of the samples and their padding: ATen/native/GridSampler.h of PyTorch, which the standard's text follows;
cubic convolution with a = -0.75, R. Keys, "Cubic convolution interpolation for digital image processing", 1981.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.ops.op_resize import Resize as OriginalResize

from .operator_base import CorrectedOperator

__all__ = ["GridSample", "Resize", "Upsample"]

Array = NDArray[Any]
_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_A = -0.75


class GridSample(CorrectedOperator):
    """Samples x [N, C, *sizes] at a grid [N, *outputs, axes] of coordinates from -1 to 1, the last axis first."""

    def _run(self, x: Array, grid: Array, mode: str, padding_mode: str, align_corners: int) -> tuple[Array]:
        mode = _MODES.get(mode, mode)
        sizes = x.shape[2:]
        taps = [
            _taps(grid[..., -1 - axis], size, mode, padding_mode, bool(align_corners))
            for axis, size in enumerate(sizes)
        ]
        result = np.zeros((*x.shape[:2], *grid.shape[1:-1]), np.result_type(x, grid))
        for image in range(len(x)):
            for chosen in itertools.product(*taps):
                weight = np.prod([weights[image] for _, weights in chosen], axis=0)
                result[image] += weight * x[image][(slice(None), *(index[image] for index, _ in chosen))]
        return (result.astype(x.dtype),)


def _taps(grid: Array, size: int, mode: str, padding: str, aligned: bool) -> list[tuple[Array, Array]]:
    """Along one axis: the samples that make up each output, as indices within the image and their weights."""
    low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
    at = (grid + 1) / 2 * (size - 1) if aligned else ((grid + 1) * size - 1) / 2
    if mode == "nearest":
        at = np.rint(at)
    if mode != "cubic":
        at = _padded(at, size, low, high, padding)
    if mode == "nearest":
        return [_tap(np.rint(at), np.ones_like(at), size)]
    base = np.floor(at)
    part = at - base
    if mode == "linear":
        return [_tap(base, 1 - part, size), _tap(base + 1, part, size)]
    return [_tap(_padded(base + k, size, low, high, padding), _keys(part - k), size) for k in (-1, 0, 1, 2)]


def _padded(at: Array, size: int, low: float, high: float, padding: str) -> Array:
    """Coordinates moved into the image, as the padding says."""
    if padding == "reflection":
        span = high - low
        turned = np.abs((at - low + span) % (2 * span) - span) if span else np.zeros_like(at)
        at = turned + low
    return at if padding == "zeros" else np.clip(at, 0, size - 1)


def _tap(at: Array, weight: Array, size: int) -> tuple[Array, Array]:
    inside = (at >= 0) & (at <= size - 1)
    return np.clip(at, 0, size - 1).astype(np.int64), np.where(inside, weight, 0)


def _keys(distance: Array) -> Array:
    """The weight of a sample at a distance of at most 2."""
    d = np.abs(distance)
    near = ((_A + 2) * d - (_A + 3)) * d * d + 1
    far = ((_A * d - 5 * _A) * d + 8 * _A) * d - 4 * _A
    return np.where(d <= 1, near, far)


class Resize(CorrectedOperator):
    """The evaluator's own; at opset 10 the second input holds the scales."""

    def _run(self, x: Array, *inputs: Array | None, **attributes: Any) -> Any:
        if self.opset < 11:
            return _asymmetric(self, x, inputs[0], attributes)
        return self.by(OriginalResize, x, *(inputs or (None,)), **attributes)


class Upsample(CorrectedOperator):
    """A Resize of opset 10; its scales are an attribute below opset 9."""

    def _run(self, x: Array, *inputs: Array, mode: str = "nearest", scales: Any = None) -> Any:
        return _asymmetric(self, x, np.asarray(scales) if scales is not None else inputs[0], {"mode": mode})


def _asymmetric(operator: CorrectedOperator, x: Array, scales: Any, attributes: dict[str, Any]) -> Any:
    known = {"mode": attributes["mode"], "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return operator.by(OriginalResize, x, None, np.asarray(scales), **known)
