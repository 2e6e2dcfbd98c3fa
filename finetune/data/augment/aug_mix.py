"""AugMix: an image mixed with several chains of operations on it.

Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", arXiv:1912.02781:
x (1 - m) + m sum_i w_i chain_i(x) with w from a Dirichlet and m from a beta distribution, both of parameter 1; three
chains of one to three of nine operations, whose amounts are uniform up to a share of the severity. The consistency loss
of the paper is left out. Places that the image leaves get the fill colour instead of black.
"""

from __future__ import annotations

import numpy as np

from .image_operations import MOVES, Pixels, apply_operation

__all__ = ["aug_mix"]

_CHAINS, _LONGEST = 3, 3
_LARGEST_SEVERITY = 10.0
_LEAST_LEVEL = 0.1
_AT_LARGEST = {
    "auto_contrast": 0.0,
    "equalize": 0.0,
    "posterize": 4.0,
    "rotate": 30.0,
    "solarize": 256.0,
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 1 / 3,
    "translate_y": 1 / 3,
}
_ONE_SIDED = ("posterize", "solarize")


def aug_mix(
    image: Pixels, fill: Pixels, rng: np.random.Generator, *, severity: float = 3.0, moves_only: bool = False
) -> Pixels:
    """The image mixed with three chains of operations on it.

    Args:
        image: uint8 [H, W, C].
        fill: uint8 [C], the colour of places that the image leaves.
        rng: The generator of the sample.
        severity: Above 0, to 10.
        moves_only: Leave out what changes colours, after the same draws.
    """
    weights, share = rng.dirichlet(np.ones(_CHAINS)), rng.beta(1.0, 1.0)
    mixed = np.zeros(image.shape)
    for weight in weights:
        chain = image
        for _ in range(rng.integers(1, _LONGEST + 1)):
            chain = _operate(chain, fill, rng, severity, moves_only=moves_only)
        mixed += weight * chain
    result: Pixels = np.clip(np.rint((1 - share) * image + share * mixed), 0, 255).astype(np.uint8)
    return result


def _operate(image: Pixels, fill: Pixels, rng: np.random.Generator, severity: float, *, moves_only: bool) -> Pixels:
    names = tuple(_AT_LARGEST)
    name = names[rng.integers(len(names))]
    level = rng.uniform(min(_LEAST_LEVEL, severity), severity) / _LARGEST_SEVERITY
    sign = 1.0 if rng.random() < 0.5 or name in _ONE_SIDED else -1.0
    if moves_only and name not in MOVES:
        return image
    return apply_operation(name, image, sign * level * _AT_LARGEST[name], fill)
