"""Images with masks drawn on those that stand on one side of a pair, the same ones in every run with one seed.

An image may be the first of one pair and the second of another, so numbers stand for an image on a side: n is image n
as it is, N + n what it is as the first of a pair, and 2 N + n as the second, where N images are measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ....errors import ConfigError
from ...config.choices import MaskKind
from ...data.augmentation import sample_generator
from ...data.dataset import Dataset
from ...data.occlusion.face_points import template_points
from ...data.occlusion.masks import draw_mask
from ...data.occlusion.shapes import POINTED_KINDS
from ..scores.pair_matching import ReadImages

__all__ = ["MaskSettings", "MaskedImages", "Side", "mask_points", "parse_points"]

Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Side = Literal["first", "second", "both"]

_SIDES: dict[str, tuple[int, ...]] = {"first": (1,), "second": (2,), "both": (1, 2)}


@dataclass(frozen=True)
class MaskSettings:
    """What is drawn on which images."""

    share: float = 0.0
    """Of the images of a side that get a mask, 0 to 1."""
    side: Side = "second"
    kinds: tuple[MaskKind, ...] = ("medical",)
    points: tuple[tuple[float, float], ...] | None = None
    """Eyes, nose and corners of the mouth in pixels of the model's input; None: those of aligned faces."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"--masked {self.share:g}: the share of images with a mask lies between 0 and 1")

    def __str__(self) -> str:
        """For reports."""
        if not self.share:
            return "none"
        return f"{self.share:.0%} of the {self.side} images of pairs, {' or '.join(self.kinds)}, seed {self.seed}"


def mask_points(settings: MaskSettings, dataset: Dataset, height: int, width: int) -> NDArray[np.float32] | None:
    """Where faces without landmarks of their own have eyes, nose and mouth, [5, 2]; None where that is not asked.

    Raises:
        ConfigError: it is not known of pictures of this shape.
    """
    if not settings.share or not POINTED_KINDS & set(settings.kinds):
        return None
    if settings.points is None and dataset.landmarks is not None and not np.isnan(dataset.landmarks).any():
        return None
    return template_points(height, width, settings.points, setting="--mask-points")


@dataclass(frozen=True)
class MaskedImages:
    """The images of a data set, as they are and as they stand in pairs."""

    dataset: Dataset
    read_plain: ReadImages
    """Reads images of `dataset` by number."""
    settings: MaskSettings
    points: NDArray[np.float32] | None = None
    """See `mask_points`."""

    def pairs(self, pairs: Indices) -> Indices:
        """Pairs int64 [P, 2 or more] of images as pairs of numbers that this room knows."""
        sides = _SIDES[self.settings.side] if self.settings.share else ()
        moved = pairs.copy()
        for side in sides:
            moved[:, side - 1] += side * len(self.dataset)
        return moved

    def read(self, numbers: Indices) -> Pixels:
        """Pixels uint8 [n, H, W, C], with masks where they belong."""
        return self._drawn(numbers)[0]

    def visible(self, numbers: Indices) -> Pixels:
        """What the masks leave visible, uint8 [n, H, W], 255 for all."""
        return self._drawn(numbers)[1]

    def _drawn(self, numbers: Indices) -> tuple[Pixels, Pixels]:
        count = len(self.dataset)
        pixels = self.read_plain(numbers % count)
        visible = np.full(pixels.shape[:3], 255, dtype=np.uint8)
        hidden = np.flatnonzero(numbers >= count)
        if hidden.size:
            pixels = pixels.copy()
        for row in hidden.tolist():
            side, image = divmod(int(numbers[row]), count)
            rng = sample_generator(self.settings.seed, side, image)
            if rng.random() < self.settings.share:
                pixels[row], visible[row] = draw_mask(pixels[row], self._points(image), self.settings.kinds, rng)
        return pixels, visible

    def _points(self, image: int) -> NDArray[np.float32] | None:
        own = self.dataset.landmarks
        if self.settings.points is not None or own is None or np.isnan(own[image, 0, 0]):
            return self.points
        points: NDArray[np.float32] = own[image]
        return points


def parse_points(text: str) -> tuple[tuple[float, float], ...]:
    """`x,y x,y x,y x,y x,y` as five points.

    Raises:
        ConfigError: it has another form.
    """
    try:
        points = [tuple(map(float, pair.split(","))) for pair in text.split()]
    except ValueError:
        points = []
    if len(points) != 5 or any(len(point) != 2 for point in points):
        raise ConfigError(
            f"--mask-points '{text}': give x,y of the left eye, right eye, nose, left and right corner of the mouth, "
            "such as '38.3,51.7 73.5,51.5 56,71.7 41.5,92.4 70.7,92.2'"
        )
    return tuple((point[0], point[1]) for point in points)
