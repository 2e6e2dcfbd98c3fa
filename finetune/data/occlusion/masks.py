"""Masks drawn on faces, as `augment.mask` and `rtool evaluate --masked` draw them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .cover import paint
from .face_frame import place_frame
from .shapes import SHAPES, block

__all__ = ["draw_mask"]

Pixels = NDArray[np.uint8]


def draw_mask(
    image: Pixels, points: NDArray[np.floating] | None, kinds: Sequence[str], rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """A picture with one mask drawn on it.

    Args:
        image: uint8 [H, W, C], C 1 or 3; it is not changed.
        points: Eyes, nose and corners of the mouth as shares of width and height, [5, 2]; None serves a block only.
        kinds: Keys of `SHAPES`, of which one is drawn.
        rng: The generator of the sample.

    Returns:
        uint8 [H, W, C], and uint8 [H, W]: 255 where the face is wholly visible, 0 where it is hidden.
    """
    height, width, _ = image.shape
    kind = kinds[int(rng.integers(len(kinds)))] if len(kinds) > 1 else kinds[0]
    if points is None:
        return paint(image, block(height, width, rng))
    frame = place_frame(points * (width, height), height, width, rng)
    return paint(image, SHAPES[kind](frame, rng))
