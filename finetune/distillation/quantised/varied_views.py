"""Views of images to train an int8 network on: each as it is, mirrored, and in other colours, light and places.

Some hundred images show few colours. What a brighter coat does to the network then lies beyond the ranges that were
measured, is cut off, and its embedding suffers most. An int8 network learns its float32 self, so a view needs no label
and need not be natural.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....converters.records.preprocessing import Preprocessing
from ...config.augmentation import AugmentConfig
from ...data.augmentation import augment, sample_generator

__all__ = ["varied_views"]

_SHIFT = 0.05
"""Largest shift, as a share of the height."""


def varied_views(
    pixels: NDArray[np.uint8], preprocessing: Preprocessing, *, copies: int, seed: int = 0
) -> NDArray[np.float32]:
    """Preprocessed views float32 [(2 + copies) N, ...]: all images, all mirrored, and `copies` times all changed.

    A copy has another hue, brightness, contrast, saturation and white balance, is shifted, and mirrored every second
    time; equal seeds give equal copies.

    Args:
        pixels: uint8 [N, H, W, C], as the preprocessing takes them.
        preprocessing: Of the network.
        copies: Changed copies of each image, 0 or more.
        seed: Seeds the changes.
    """
    config = AugmentConfig(
        flip=0.5,
        pad_crop=max(1, round(_SHIFT * pixels.shape[1])),
        photometric=1.0,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.5,
        colour=1.0,
    )
    fill = [min(max(value, 0.0), 255.0) for value in preprocessing.mean]
    views = [pixels, pixels[:, :, ::-1]]
    for copy in range(copies):
        generators = (sample_generator(seed, copy, position) for position in range(len(pixels)))
        changed = (augment(image, config, fill, rng)[0] for image, rng in zip(pixels, generators, strict=True))
        views.append(np.stack(list(changed)) if len(pixels) else pixels)
    return preprocessing.normalise(np.concatenate(views))
