"""A cover on a picture: filled outlines in one shaded colour, drawn four times as fine as the picture.

The share of a pixel that the outlines fill is its opacity: image = (1 - opacity) image + opacity colour, and
visible = 1 - opacity. The fine drawing is reduced by area means, which are that share exactly; LANCZOS would take
longer than all the rest. Only the part of the picture that the outlines touch is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["Cover", "Shade", "paint"]

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
Shade = Literal["plain", "pleats", "knit", "glass"]

_FINE = 4
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SHADE_SIZE = 96
_SHADE_REACH = 1.5
"""A shade lies over the places -1.5 to 1.5 of a cover, in both of its axes."""


@dataclass(frozen=True)
class Cover:
    """What is drawn, in pixels of the picture."""

    outlines: tuple[Points, ...]
    """Polygons [n, 2], filled."""
    colour: NDArray[np.float32]
    """RGB float32 [3], 0..255."""
    shade: Shade
    origin: Points
    """Where the shade has its middle [2]."""
    axes: Points
    """Rows [2, 2]: one unit of the shade to the right and down."""
    lines: tuple[tuple[Points, float], ...] = ()
    """Straps: ends [2, 2] and width."""


def paint(image: Pixels, cover: Cover) -> tuple[Pixels, Pixels]:
    """The picture with the cover on it, and which share of each pixel still shows the picture.

    Args:
        image: uint8 [H, W, C], C 1 or 3; it is not changed.
        cover: What lies on it.

    Returns:
        uint8 [H, W, C], and uint8 [H, W], 255 for what is wholly visible.
    """
    height, width, channels = image.shape
    visible = np.full((height, width), 255, dtype=np.uint8)
    box = _box(cover, height, width)
    if box is None:
        return image, visible
    left, top, right, bottom = box
    opacity = _opacity(cover, box)
    visible[top:bottom, left:right] = 255 - np.asarray(opacity, dtype=np.uint8)
    grey = channels == 1
    picture = Image.fromarray(image[..., 0] if grey else np.ascontiguousarray(image))
    colour = np.array([cover.colour @ _LUMA]) if grey else cover.colour
    shaded = _shaded(colour)[np.asarray(_shade_in(cover, box))]
    picture.paste(Image.fromarray(shaded[..., 0] if grey else shaded), (left, top), opacity)
    painted = np.asarray(picture, dtype=np.uint8)
    return painted[..., None] if grey else painted, visible


def _box(cover: Cover, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what the cover touches, in whole pixels; None outside of the picture."""
    places = np.concatenate([*cover.outlines, *(ends + side * wide for ends, wide in cover.lines for side in (-1, 1))])
    low, high = np.floor(places.min(axis=0)), np.ceil(places.max(axis=0))
    left, top = (int(value) for value in np.maximum(low, 0))
    right, bottom = int(min(high[0], width)), int(min(high[1], height))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _opacity(cover: Cover, box: tuple[int, int, int, int]) -> Image.Image:
    """The share of each pixel of `box` that the cover fills, one byte per pixel."""
    left, top, right, bottom = box
    fine = Image.new("L", (_FINE * (right - left), _FINE * (bottom - top)), 0)
    draw = ImageDraw.Draw(fine)
    for outline in cover.outlines:
        draw.polygon(_fine(outline, left, top), fill=255)
    for ends, wide in cover.lines:
        draw.line(_fine(ends, left, top), fill=255, width=max(1, round(_FINE * wide)))
    return fine.reduce(_FINE)


def _shaded(colour: NDArray[np.floating]) -> Pixels:
    """The colour at each brightness of a shade, uint8 [256, C]."""
    shaded: Pixels = np.minimum(np.outer(np.arange(256) / 255, colour) + 0.5, 255).astype(np.uint8)
    return shaded


def _fine(places: Points, left: int, top: int) -> list[float]:
    """Places as Pillow wants them: it counts from the middle of the first fine pixel."""
    flat: list[float] = ((places - (left, top)) * _FINE - 0.5).ravel().tolist()
    return flat


def _shade_in(cover: Cover, box: tuple[int, int, int, int]) -> Image.Image:
    """The cover's shade over `box`, one byte per pixel."""
    left, top, right, bottom = box
    zoom = _SHADE_SIZE / (2 * _SHADE_REACH)
    back = np.linalg.inv(cover.axes.T) * zoom
    shift = back @ (np.array([left, top], dtype=np.float64) - cover.origin) + _SHADE_SIZE / 2
    matrix = (*back[0], shift[0], *back[1], shift[1])
    picture = _shade(cover.shade)
    edge = picture.getpixel((0, _SHADE_SIZE // 2))
    return picture.transform(
        (right - left, bottom - top),
        Image.Transform.AFFINE,
        tuple(float(value) for value in matrix),
        Image.Resampling.BILINEAR,
        fillcolor=edge,
    )


@lru_cache(maxsize=8)
def _shade(kind: Shade) -> Image.Image:
    """Brightness 0..255 over the places of a cover."""
    steps = (np.arange(_SHADE_SIZE) + 0.5) / _SHADE_SIZE * 2 * _SHADE_REACH - _SHADE_REACH
    u, v = np.meshgrid(steps, steps)
    if kind == "pleats":  # darker towards the sides, with three folds across
        folds = sum(np.exp(-(((v - place) / 0.06) ** 2)) for place in (-0.45, 0.05, 0.55))
        values = 1 - 0.22 * np.clip(np.abs(u), 0, 1.2) ** 2 - 0.12 * folds
    elif kind == "knit":
        values = 0.85 + 0.15 * np.sin(2 * np.pi * 6 * (v + 0.15 * np.cos(np.pi * u)))
    elif kind == "glass":  # lighter at the top
        values = 0.75 - 0.25 * v
    else:
        values = 1 - 0.15 * np.clip(np.abs(u), 0, 1.2) ** 2
    return Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8))
