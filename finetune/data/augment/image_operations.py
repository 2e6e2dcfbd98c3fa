"""Operations on one image that RandAugment and AugMix draw from: uint8 [H, W, C] in and out, never in place.

Each takes an amount in its own unit. They are AutoAugment's (Cubuk et al., arXiv:1805.09501), made by Pillow as in the
authors' code. Geometric ones are affine about the image's centre, bilinear, and fill with the given colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

__all__ = ["MOVES", "OPERATIONS", "Pixels", "apply_operation", "turn_hue"]

Pixels = NDArray[np.uint8]
Operation = Callable[[Image.Image, float, tuple[int, ...]], Image.Image]


def apply_operation(name: str, image: Pixels, amount: float, fill: Pixels) -> Pixels:
    """The operation `name` of `OPERATIONS` on an image.

    Args:
        name: Key of `OPERATIONS`.
        image: uint8 [H, W, C], C 1 or 3.
        amount: In the unit of the operation.
        fill: uint8 [C], the colour of places that the image leaves.
    """
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[..., 0] if grey else np.ascontiguousarray(image))
    changed = np.asarray(OPERATIONS[name](picture, amount, tuple(fill.tolist())), dtype=np.uint8)
    return changed[..., None] if grey else changed


def turn_hue(image: Pixels, turn: float) -> Pixels:
    """Hue turned by `turn`, -0.5 to 0.5 of the colour circle; a grey image stays as it is.

    In Pillow's HSV with 256 hues, as torchvision's `adjust_hue` does.
    """
    if image.shape[2] == 1:
        return image
    hsv = np.array(Image.fromarray(np.ascontiguousarray(image)).convert("HSV"))
    hsv[..., 0] += np.uint8(round(turn * 255) % 256)  # wraps around the circle
    return np.asarray(Image.frombytes("HSV", hsv.shape[1::-1], hsv.tobytes()).convert("RGB"), dtype=np.uint8)


def _affine(picture: Image.Image, matrix: Sequence[float], fill: tuple[int, ...]) -> Image.Image:
    """The image under [a b; c d] about its centre and a shift (e, f), from output to input places."""
    a, b, e, c, d, f = matrix
    x, y = picture.width / 2, picture.height / 2
    moved = (a, b, x - a * x - b * y + e, c, d, y - c * x - d * y + f)
    colour = fill if len(fill) > 1 else fill[0]
    return picture.transform(
        picture.size, Image.Transform.AFFINE, moved, resample=Image.Resampling.BILINEAR, fillcolor=colour
    )


def _rotate(picture: Image.Image, degrees: float, fill: tuple[int, ...]) -> Image.Image:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _affine(picture, (cosine, sine, 0, -sine, cosine, 0), fill)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, amount, _: kind(picture).enhance(1 + amount)


OPERATIONS: Mapping[str, Operation] = {
    "identity": lambda picture, _amount, _fill: picture,
    "auto_contrast": lambda picture, _amount, _fill: ImageOps.autocontrast(picture),
    "equalize": lambda picture, _amount, _fill: ImageOps.equalize(picture),
    "rotate": _rotate,
    "shear_x": lambda picture, amount, fill: _affine(picture, (1, amount, 0, 0, 1, 0), fill),
    "shear_y": lambda picture, amount, fill: _affine(picture, (1, 0, 0, amount, 1, 0), fill),
    "translate_x": lambda picture, amount, fill: _affine(picture, (1, 0, amount * picture.width, 0, 1, 0), fill),
    "translate_y": lambda picture, amount, fill: _affine(picture, (1, 0, 0, 0, 1, amount * picture.height), fill),
    "brightness": _enhance(ImageEnhance.Brightness),
    "saturation": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "posterize": lambda picture, amount, _: ImageOps.posterize(picture, max(1, 8 - round(amount))),
    "solarize": lambda picture, amount, _: ImageOps.solarize(picture, round(256 - amount)),
}
"""By name. Amounts: degrees; shears and shares of the size; enhancements by 1 + amount; bits taken away; and values
from the top that solarize inverts."""
MOVES = frozenset({"rotate", "shear_x", "shear_y", "translate_x", "translate_y"})
"""Those that change where things are; what is known per place, such as which pixels show the face, follows them."""
