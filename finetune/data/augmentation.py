"""Random changes of one training image, uint8 [H, W, C] in and out, never in place.

The generator of a sample is seeded by run, epoch and position in the epoch's plan, so a sample is changed in the same
way in every process or worker, and after a resume. Random erasing: Zhong et al., "Random Erasing Data Augmentation",
arXiv:1708.04896, here filled with one colour. Crop, low resolution and photometric change are those with which AdaFace
is trained: Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", arXiv:2204.00964.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..config.config import AugmentConfig
from .augment.aug_mix import aug_mix
from .augment.image_operations import turn_hue
from .augment.rand_augment import rand_augment
from .augment.random_patch import paste_patch

__all__ = [
    "add_noise",
    "augment",
    "blur",
    "erase",
    "keep_rectangle",
    "lower_resolution",
    "pad_crop",
    "photometric",
    "sample_generator",
    "scale_channels",
    "to_grey",
    "turn",
]

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, Pixels, np.random.Generator], Pixels]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def sample_generator(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The generator of one sample: Philox with epoch and position as its counter, which is made in microseconds."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, position, epoch]))


def augment(
    image: Pixels,
    config: AugmentConfig,
    fill: Sequence[float],
    rng: np.random.Generator,
    *,
    other: Callable[[np.random.Generator], Pixels] | None = None,
) -> Pixels:
    """All configured changes in their order.

    Args:
        image: uint8 [H, W, C].
        config: The probabilities.
        fill: Colour of erased and padded places, one value per channel, 0..255.
        rng: The generator of the sample.
        other: Another training image of the same shape, for `random_patch`; without it no patch is pasted.
    """
    colour = np.asarray(fill, dtype=np.uint8)
    if rng.random() < config.flip:
        image = image[:, ::-1]
    if config.pad_crop:
        image = pad_crop(image, config.pad_crop, colour, rng)
    if config.rotation:
        image = turn(image, config.rotation, colour, rng)
    if config.random_patch and other is not None and rng.random() < config.random_patch:
        image = paste_patch(image, other(rng), colour, rng)
    strengths = (config.brightness, config.contrast, config.saturation)
    operations, magnitude = config.rand_augment_operations, config.rand_augment_magnitude
    steps: tuple[tuple[float, Change], ...] = (
        (config.random_crop, keep_rectangle),
        (config.low_resolution, lower_resolution),
        (config.photometric, partial(photometric, strengths=strengths, hue=config.hue)),
        (config.colour, scale_channels),
        (config.blur, blur),
        (config.grey, to_grey),
        (config.noise, add_noise),
        (config.rand_augment, partial(rand_augment, operations=operations, magnitude=magnitude)),
        (config.aug_mix, partial(aug_mix, severity=config.aug_mix_severity)),
        (config.erasing, erase),
    )
    for probability, change in steps:
        if probability and rng.random() < probability:
            image = change(image, colour, rng)
    return image


def pad_crop(image: Pixels, padding: int, colour: Pixels, rng: np.random.Generator) -> Pixels:
    """Pad with `colour` and crop at a random place: a shift by up to `padding` pixels in each direction."""
    height, width, _ = image.shape
    padded = np.empty((height + 2 * padding, width + 2 * padding, image.shape[2]), dtype=np.uint8)
    padded[:] = colour
    padded[padding : padding + height, padding : padding + width] = image
    top, left = rng.integers(0, 2 * padding + 1, 2)
    return padded[top : top + height, left : left + width]


def turn(image: Pixels, most: float, colour: Pixels, rng: np.random.Generator) -> Pixels:
    """Turn about the centre by -most to most degrees, bilinearly; what comes from outside is `colour`."""
    fill = tuple(int(value) for value in np.broadcast_to(colour, (image.shape[2],)))
    angle = float(rng.uniform(-most, most))
    outside = fill[0] if len(fill) == 1 else fill
    return _from_pil(_to_pil(image).rotate(angle, Image.Resampling.BILINEAR, fillcolor=outside), image.shape[2])


def keep_rectangle(image: Pixels, colour: Pixels, rng: np.random.Generator) -> Pixels:
    """Keep a rectangle of 20 to 100 % of the area in place, and fill the rest with `colour`."""
    height, width, _ = image.shape
    area, aspect = rng.uniform(0.2, 1.0), np.exp(rng.uniform(np.log(0.75), np.log(4 / 3)))
    tall = min(height, max(1, round(height * np.sqrt(area * aspect))))
    wide = min(width, max(1, round(width * np.sqrt(area / aspect))))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    kept = np.empty_like(image)
    kept[:] = colour
    kept[top : top + tall, left : left + wide] = image[top : top + tall, left : left + wide]
    return kept


def lower_resolution(image: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Shrink to 20 to 100 % of height and width and enlarge again, each with one of three interpolations."""
    height, width, _ = image.shape
    share = rng.uniform(0.2, 1.0)
    filters = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    down, up = (filters[index] for index in rng.integers(0, 3, 2))
    small = _to_pil(image).resize((max(1, round(width * share)), max(1, round(height * share))), down)
    return _from_pil(small.resize((width, height), up), image.shape[2])


def photometric(
    image: Pixels,
    _: Pixels,
    rng: np.random.Generator,
    *,
    strengths: tuple[float, float, float] = (0.5, 0.5, 0.5),
    hue: float = 0.0,
) -> Pixels:
    """Change brightness, contrast and saturation by factors from 1 - s to 1 + s, and turn the hue by -hue to hue.

    Args:
        image: uint8 [H, W, C]; saturation and hue of a grey one stay.
        rng: The generator of the sample.
        strengths: s of brightness, contrast and saturation, 0..1.
        hue: Largest turn, 0..0.5 of the colour circle.
    """
    spread = np.asarray(strengths)
    brightness, contrast, saturation = rng.uniform(1 - spread, 1 + spread).astype(np.float32)
    values = image * brightness
    mean = values.mean()
    values = (values - mean) * contrast + mean
    if image.shape[2] == 3:
        grey = (values @ _LUMA)[..., None]
        values = (values - grey) * saturation + grey
    changed = _quantise(values)
    return turn_hue(changed, rng.uniform(-hue, hue)) if hue else changed


def scale_channels(image: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Multiply each channel by its own factor exp(N(0, 0.2)): a change of white balance."""
    return _quantise(image * np.exp(rng.normal(0, 0.2, image.shape[2])).astype(np.float32))


def blur(image: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Gaussian blur with a standard deviation of 0.3 to 1.5 pixels."""
    return _from_pil(_to_pil(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5))), image.shape[2])


def to_grey(image: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:  # noqa: ARG001 - one signature for all
    """Put the luma (ITU-R BT.601) into every channel."""
    return image if image.shape[2] == 1 else _quantise(np.repeat((image @ _LUMA)[..., None], 3, axis=2))


def add_noise(image: Pixels, _: Pixels, rng: np.random.Generator) -> Pixels:
    """Add Gaussian noise to each value, of one standard deviation from 0 to 20 for the image."""
    noise = rng.normal(0, rng.uniform(0, 20), image.shape).astype(np.float32)
    return _quantise(image.astype(np.float32) + noise)


def erase(image: Pixels, colour: Pixels, rng: np.random.Generator, *, attempts: int = 10) -> Pixels:
    """Fill a rectangle of 2 to 40 % of the area with `colour`; unchanged if none fits in `attempts` draws."""
    height, width, _ = image.shape
    for _ in range(attempts):
        area = rng.uniform(0.02, 0.4) * height * width
        aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        tall, wide = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < tall < height and 0 < wide < width:
            top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
            erased = image.copy()
            erased[top : top + tall, left : left + wide] = colour
            return erased
    return image


def _quantise(values: NDArray[np.floating]) -> Pixels:
    rounded: Pixels = np.clip(values + 0.5, 0, 255).astype(np.uint8)
    return rounded


def _to_pil(image: Pixels) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else np.ascontiguousarray(image))


def _from_pil(image: Image.Image, channels: int) -> Pixels:
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if channels == 1 else pixels
