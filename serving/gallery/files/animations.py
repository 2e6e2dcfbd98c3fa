"""`webp/person_N.webp`: the best crops of one person in turn, letterboxed into a square."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

__all__ = ["GREY", "MOST_FRAMES", "animated", "evenly", "letterboxed"]

GREY = (38, 41, 48)
"""Of the page's cards, RGB."""
MOST_FRAMES = 60
_SIDE = 256
_MILLISECONDS = 200
"""Per frame; 100 is hard to follow."""


def animated(images: Sequence[Image.Image]) -> bytes:
    """An animated WebP that never ends, 200 ms per frame; neighbours that are alike share a frame of twice the time."""
    frames = [letterboxed(image, (_SIDE, _SIDE)) for image in images]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=_MILLISECONDS,
        loop=0,
        quality=80,
        method=4,
    )
    return buffer.getvalue()


def letterboxed(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole image as RGB inside `size` (width, height), never stretched, on the page's grey."""
    scale = min(size[0] / image.width, size[1] / image.height)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    frame = Image.new("RGB", size, GREY)
    resized = image.convert("RGB").resize(shape, Image.Resampling.BICUBIC)
    frame.paste(resized, ((size[0] - shape[0]) // 2, (size[1] - shape[1]) // 2))
    return frame


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 .. count - 1, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(float(place)) for place in np.linspace(0, count - 1, most)})
