"""Views: one augmented image as several models see it, each at its own size and colours.

An image is decoded and augmented once, at the `canvas`: the largest height and the largest width of all models, with
colours if one of them has colours. Each model's own resize then makes its view, so that a student and its teachers see
the same crop, flip and erasing. A model of the canvas' size sees the augmented pixels themselves, and models of one
size and colours share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ....converters.records.preprocessing import Preprocessing

__all__ = ["Views", "lay_out_views"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Views:
    """`canvas` is what is augmented, `own` the view of the model that learns, `others` those of further sizes."""

    canvas: Preprocessing
    own: Preprocessing
    others: tuple[Preprocessing, ...]

    def of(self, image: Pixels) -> tuple[Pixels, tuple[Pixels, ...]]:
        """The own view and the others, each uint8 [H, W, C], of an augmented image at the canvas."""
        return self._seen(image, self.own), tuple(self._seen(image, each) for each in self.others)

    def own_visibility(self, visible: Pixels) -> Pixels:
        """The visibility uint8 [H, W] of an image at the canvas, as the model that learns sees it."""
        if visible.shape == (self.own.height, self.own.width):
            return visible
        smaller = Image.fromarray(visible).resize((self.own.width, self.own.height), Image.Resampling.BOX)
        return np.asarray(smaller, dtype=np.uint8)

    def own_view(self, image: Pixels) -> Pixels:
        """The own view, uint8 [H, W, C], of an image at the canvas."""
        return self._seen(image, self.own)

    def _seen(self, image: Pixels, view: Preprocessing) -> Pixels:
        if _geometry(view) == _geometry(self.canvas):
            return image
        return view.resize(Image.fromarray(image[..., 0] if image.shape[2] == 1 else np.ascontiguousarray(image)))


def lay_out_views(own: Preprocessing, teachers: Sequence[Preprocessing]) -> tuple[Views | None, tuple[int, ...]]:
    """The views of a model and its teachers, and for each teacher the number of its view: 0 the own, from 1 `others`.

    None where all see the same pixels.
    """
    distinct: list[Preprocessing] = []
    numbers = []
    for teacher in teachers:
        known = [own, *distinct]
        number = next((n for n, each in enumerate(known) if _geometry(each) == _geometry(teacher)), len(known))
        if number == len(known):
            distinct.append(teacher)
        numbers.append(number)
    if not distinct:
        return None, tuple(numbers)
    everyone = [own, *distinct]
    height, width = max(each.height for each in everyone), max(each.width for each in everyone)
    colourful = next((each for each in everyone if each.channels == 3), own)
    largest = max(everyone, key=lambda each: (each.height * each.width, each is own))
    canvas = replace(colourful, height=height, width=width, interpolation=largest.interpolation)
    return Views(canvas, own, tuple(distinct)), tuple(numbers)


def _geometry(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """What decides the pixels that a model sees; images are decoded once, with the interpolation of the canvas."""
    return preprocessing.height, preprocessing.width, preprocessing.channels
