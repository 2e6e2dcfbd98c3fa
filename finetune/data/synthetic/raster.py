"""A painter for many small pictures at once, in NumPy: anti-aliased shapes given by one value per picture.

The synthetic generators draw with it. A view (rotation, zoom, shear, shift) is applied to the coordinates instead of
the pixels, so a picture is drawn once, at its final size, without resampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Canvas", "View", "blur", "quantise", "resize_noise"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class View:
    """How scene coordinates follow from pixels, one value per picture [B]; lengths in picture heights."""

    rotation: Floats
    """Radians."""
    zoom: Floats
    shear: Floats
    shift_x: Floats
    shift_y: Floats

    def places(self, scene: Floats, height: int, width: int) -> NDArray[np.float32]:
        """Where places of the scene [B, n, 2] lie in pictures, as shares of width and height: float32 [B, n, 2]."""
        cos, sin = np.cos(self.rotation) / self.zoom, np.sin(self.rotation) / self.zoom
        matrix = np.stack([np.stack([cos, sin + self.shear], axis=1), np.stack([-sin, cos], axis=1)], axis=1)
        seen = np.einsum("bij,bnj->bni", np.linalg.inv(matrix), scene)
        x, y = seen[..., 0] + self.shift_x[:, None], seen[..., 1] + self.shift_y[:, None]
        return np.stack([x * height / width + 0.5, y + 0.5], axis=2).astype(np.float32)


class Canvas:
    """B pictures, float32 RGB 0..1 [B, H, W, 3]; scene origin in the centre, y down, unit = picture height."""

    def __init__(self, background: Floats, view: View) -> None:
        self.pixels = np.array(background, dtype=np.float32)
        _, height, width, _ = self.pixels.shape
        y = ((np.arange(height, dtype=np.float32) + 0.5) / height - 0.5)[None, :, None]
        x = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / height)[None, None, :]
        x, y = x - _column(view.shift_x), y - _column(view.shift_y)
        cos, sin = _column(np.cos(view.rotation) / view.zoom), _column(np.sin(view.rotation) / view.zoom)
        self._x = cos * x + (sin + _column(view.shear)) * y
        self._y = cos * y - sin * x
        self._sharpness = _column(height * view.zoom)
        self._row_span = self._y.min(axis=(0, 2)), self._y.max(axis=(0, 2))
        self._column_span = self._x.min(axis=(0, 1)), self._x.max(axis=(0, 1))

    def ellipse(
        self, x: Floats, y: Floats, rx: Floats, ry: Floats, colour: Floats, where: Floats | None = None
    ) -> None:
        """Filled ellipses with centre (x, y) and radii; `where` [B] is the opacity, 1 when absent."""
        for area, px, py, sharpness in self._area(x - rx, x + rx, y - ry, y + ry):
            radius = np.sqrt(((px - _column(x)) / _column(rx)) ** 2 + ((py - _column(y)) / _column(ry)) ** 2)
            self._fill(area, (radius - 1) * _column(np.minimum(rx, ry)) * sharpness, colour, where)

    def box(self, x: Floats, y: Floats, rx: Floats, ry: Floats, colour: Floats, where: Floats | None = None) -> None:
        """Filled rectangles with centre (x, y) and half sides."""
        for area, px, py, sharpness in self._area(x - rx, x + rx, y - ry, y + ry):
            distance = np.maximum(np.abs(px - _column(x)) - _column(rx), np.abs(py - _column(y)) - _column(ry))
            self._fill(area, distance * sharpness, colour, where)

    def stripes(
        self,
        x: Floats,
        y: Floats,
        rx: Floats,
        ry: Floats,
        period: Floats,
        colour: Floats,
        *,
        vertical: bool,
        where: Floats,
    ) -> None:
        """Stripes, as wide as their gaps, inside the rectangle with centre (x, y) and half sides."""
        for area, px, py, sharpness in self._area(x - rx, x + rx, y - ry, y + ry):
            distance = np.maximum(np.abs(px - _column(x)) - _column(rx), np.abs(py - _column(y)) - _column(ry))
            along = (px - _column(x) if vertical else py - _column(y)) / _column(period)
            wave = (np.abs(along - np.floor(along) - 0.5) - 0.25) * _column(period)
            self._fill(area, np.maximum(distance, wave) * sharpness, colour, where)

    def line(
        self,
        start: tuple[Floats, Floats],
        end: tuple[Floats, Floats],
        thickness: Floats,
        colour: Floats,
        where: Floats | None = None,
    ) -> None:
        """Straight lines with round ends; `thickness` is the full width."""
        (x0, y0), (x1, y1) = start, end
        half = thickness / 2
        left, right = np.minimum(x0, x1) - half, np.maximum(x0, x1) + half
        top, bottom = np.minimum(y0, y1) - half, np.maximum(y0, y1) + half
        for area, px, py, sharpness in self._area(left, right, top, bottom):
            dx, dy = _column(x1 - x0), _column(y1 - y0)
            ax, ay = px - _column(x0), py - _column(y0)
            length = dx * dx + dy * dy
            along = np.clip((ax * dx + ay * dy) / np.maximum(length, np.float32(1e-12)), 0, 1)
            distance = np.hypot(ax - along * dx, ay - along * dy) - _column(half)
            self._fill(area, distance * sharpness, colour, where)

    def _area(
        self, left: Floats, right: Floats, top: Floats, bottom: Floats
    ) -> Iterator[tuple[tuple[slice, slice, slice], Floats, Floats, Floats]]:
        """The part of the pictures that a shape can touch, with its coordinates; nothing if it lies outside of all."""
        margin = 0.02
        rows = _span(self._row_span, float(top.min()) - margin, float(bottom.max()) + margin)
        columns = _span(self._column_span, float(left.min()) - margin, float(right.max()) + margin)
        if rows is not None and columns is not None:
            area = (slice(None), rows, columns)
            yield area, self._x[area], self._y[area], self._sharpness

    def _fill(self, area: tuple[slice, slice, slice], distance: Floats, colour: Floats, where: Floats | None) -> None:
        """Blend `colour` [B, 3] where the signed distance, in pixels, is negative."""
        coverage = np.clip(0.5 - distance, 0, 1)
        if where is not None:
            coverage *= _column(where)
        target = self.pixels[area]
        target += coverage[..., None] * (colour[:, None, None, :].astype(np.float32) - target)


def blur(pixels: Floats, sigma: Floats) -> Floats:
    """Three-tap blur of [B, H, W, 3]; `sigma` [B] in pixels, 0 to 0.8."""
    side = (0.5 * np.minimum(sigma, 0.8) ** 2).astype(np.float32)[:, None, None, None]
    for axis in (1, 2):
        before, after = np.roll(pixels, 1, axis), np.roll(pixels, -1, axis)
        edge = [slice(None)] * 4
        edge[axis] = slice(0, 1)
        before[tuple(edge)] = pixels[tuple(edge)]
        edge[axis] = slice(-1, None)
        after[tuple(edge)] = pixels[tuple(edge)]
        pixels = pixels * (1 - 2 * side) + (before + after) * side
    return pixels


def quantise(pixels: Floats) -> NDArray[np.uint8]:
    """Values 0..1 as uint8 0..255; values outside are clipped."""
    rounded: NDArray[np.uint8] = (np.clip(pixels, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return rounded


def resize_noise(coarse: Floats, height: int, width: int) -> Floats:
    """Bilinear enlargement of coarse fields [B, h, w, 3] to [B, height, width, 3]: smooth random backgrounds."""
    rows = _interpolation(coarse.shape[1], height)
    columns = _interpolation(coarse.shape[2], width)
    tall = np.einsum("Hh,bhwc->bHwc", rows, coarse, optimize=True)
    wide: Floats = np.einsum("Ww,bHwc->bHWc", columns, tall, optimize=True).astype(np.float32)
    return wide


def _interpolation(few: int, many: int) -> Floats:
    """The matrix [many, few] of linear interpolation between `few` evenly spaced values."""
    place = np.linspace(0, few - 1, many)
    matrix: Floats = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(few)[None, :])).astype(np.float32)
    return matrix


def _span(span: tuple[Floats, Floats], low: float, high: float) -> slice | None:
    touched = np.flatnonzero((span[1] >= low) & (span[0] <= high))
    return slice(int(touched[0]), int(touched[-1]) + 1) if touched.size else None


def _column(values: Floats) -> Floats:
    return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)
