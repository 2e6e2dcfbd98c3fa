"""Random changes of one training image, uint8 [H, W, C] in and out, never in place.

Each takes its own random generator, seeded by run, epoch and place in the epoch's plan: a sample is changed alike in
whatever process or worker it is made, and after a resume. Random erasing: Zhong et al., AAAI 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..config import AugmentConfig

__all__ = ["augment", "erase", "pad_crop", "sample_generator"]

Image = NDArray[np.uint8]


def sample_generator(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The generator of one sample: Philox, counted by epoch and position, which costs microseconds to make."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, position, epoch]))


def augment(image: Image, config: AugmentConfig, fill: Sequence[float], rng: np.random.Generator) -> Image:
    """All configured changes in their order. `fill` is the colour of erased and padded places, one number a channel."""
    colour = np.asarray(fill, dtype=np.uint8)
    if rng.random() < config.flip:
        image = image[:, ::-1]
    if config.pad_crop:
        image = pad_crop(image, config.pad_crop, colour, rng)
    if rng.random() < config.erasing:
        image = erase(image, colour, rng)
    return image


def pad_crop(image: Image, padding: int, colour: Image, rng: np.random.Generator) -> Image:
    """Shift by up to `padding` pixels each way; what comes in from outside has `colour`."""
    height, width, _ = image.shape
    padded = np.empty((height + 2 * padding, width + 2 * padding, image.shape[2]), dtype=np.uint8)
    padded[:] = colour
    padded[padding : padding + height, padding : padding + width] = image
    top, left = rng.integers(0, 2 * padding + 1, 2)
    return padded[top : top + height, left : left + width]


def erase(image: Image, colour: Image, rng: np.random.Generator, *, attempts: int = 10) -> Image:
    """Paint a rectangle of 2 to 40 % of the area with `colour`; unchanged when none fits in `attempts` draws."""
    height, width, _ = image.shape
    for _ in range(attempts):
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        tall, wide = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < tall < height and 0 < wide < width:
            top, left = rng.integers(0, height - tall), rng.integers(0, width - wide)
            erased = image.copy()
            erased[top : top + tall, left : left + wide] = colour
            return erased
    return image
