"""RandAugment: a few operations in a row, all of one magnitude.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", arXiv:1909.13719: 14
operations, each equally likely. The ranges are those of torchvision's `RandAugment`, where 30 is the largest magnitude:
rotation 30 degrees, shear 0.3, translation 150 / 331 of the size, enhancements 0.9, posterize to 4 bits, solarize all.
"""

from __future__ import annotations

import numpy as np

from .image_operations import MOVES, OPERATIONS, Pixels, apply_operation

__all__ = ["rand_augment"]

_LARGEST_MAGNITUDE = 30.0
_AT_LARGEST = {
    "rotate": 30.0,
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 150 / 331,
    "translate_y": 150 / 331,
    "brightness": 0.9,
    "saturation": 0.9,
    "contrast": 0.9,
    "sharpness": 0.9,
    "posterize": 4.0,
    "solarize": 256.0,
}
_ONE_SIDED = ("posterize", "solarize")
"""Operations whose amount has no sign."""


def rand_augment(
    image: Pixels,
    fill: Pixels,
    rng: np.random.Generator,
    *,
    operations: int = 2,
    magnitude: float = 9.0,
    moves_only: bool = False,
) -> Pixels:
    """`operations` random operations in a row.

    Args:
        image: uint8 [H, W, C].
        fill: uint8 [C], the colour of places that the image leaves.
        rng: The generator of the sample.
        operations: How many.
        magnitude: 0..30; signs are random.
        moves_only: Leave out what changes colours, after the same draws.
    """
    names = tuple(OPERATIONS)
    for _ in range(operations):
        name = names[rng.integers(len(names))]
        sign = 1.0 if rng.random() < 0.5 or name in _ONE_SIDED else -1.0
        amount = sign * _AT_LARGEST.get(name, 0.0) * magnitude / _LARGEST_MAGNITUDE
        if name in MOVES or not moves_only:
            image = apply_operation(name, image, amount, fill)
    return image
