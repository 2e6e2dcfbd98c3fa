"""Random patch: a rectangle of another training image pasted into this one.

As torchreid's `RandomPatch` (Zhou et al., "Learning Generalisable Omni-Scale Representations for Person
Re-Identification", arXiv:1910.06827): 1 to 50 % of the area, aspect 0.1 to 10, turned by up to 10 degrees and mirrored
half the time each. torchreid fills a pool of patches as it goes, so that a patch depends on the order of images and on
the worker; here it is cut from an image that the sample's own generator chooses, so that a sample is always the same.
"""

from __future__ import annotations

import math

import numpy as np

from .image_operations import Pixels, apply_operation

__all__ = ["paste_patch"]

_LEAST_AREA, _LARGEST_AREA = 0.01, 0.5
_LEAST_ASPECT = 0.1
_LARGEST_ANGLE = 10.0
_ATTEMPTS = 100


def paste_patch(image: Pixels, other: Pixels, fill: Pixels, rng: np.random.Generator) -> Pixels:
    """`image` with a random rectangle of `other`, of the same shape, pasted at a random place.

    Args:
        image: uint8 [H, W, C]; unchanged if no rectangle fits.
        other: uint8 [H, W, C].
        fill: uint8 [C], the colour of the corners of a turned patch.
        rng: The generator of the sample.
    """
    height, width, _ = image.shape
    for _ in range(_ATTEMPTS):
        area = rng.uniform(_LEAST_AREA, _LARGEST_AREA) * height * width
        aspect = rng.uniform(_LEAST_ASPECT, 1 / _LEAST_ASPECT)
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < tall < height and 0 < wide < width:
            break
    else:
        return image
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    patch = other[top : top + tall, left : left + wide]
    if rng.random() < 0.5:
        patch = apply_operation("rotate", patch, rng.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE), fill)
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    pasted = image.copy()
    pasted[top : top + tall, left : left + wide] = patch
    return pasted
