"""Random changes of one training image, uint8 [H, W, C] in and out, never in place.

The generator of a sample is seeded by run, epoch and position in the epoch's plan, so a sample is changed in the same
way in every process or worker, and after a resume. A mask is drawn first; which pixels still show the face then follows
every change that moves or hides a place. Random erasing: Zhong et al., "Random Erasing Data Augmentation",
arXiv:1708.04896, here filled with one colour. Crop, low resolution and photometric change are those with which AdaFace
is trained: Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", arXiv:2204.00964.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..config.config import AugmentConfig
from .augment.aug_mix import aug_mix
from .augment.image_operations import turn_hue
from .augment.rand_augment import rand_augment
from .augment.random_patch import paste_patch
from .occlusion.masks import draw_mask

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

_HIDDEN = np.zeros(1, dtype=np.uint8)
"""What fills a visibility where an image is filled with a colour."""
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
    visible: Pixels | None = None,
    points: NDArray[np.float32] | None = None,
) -> tuple[Pixels, Pixels | None]:
    """All configured changes in their order, of an image and of what is known about its places.

    Args:
        image: uint8 [H, W, C].
        config: The probabilities.
        fill: Colour of erased and padded places, one value per channel, 0..255.
        rng: The generator of the sample.
        other: Another training image of the same shape, for `random_patch`; without it no patch is pasted.
        visible: uint8 [H, W], 255 where the image shows the face and 0 where something hides it, if that is known.
        points: Eyes, nose and corners of the mouth for `mask`, float32 [5, 2], shares of width and height.

    Returns:
        uint8 [H, W, C], and the visibility uint8 [H, W]; None where neither `visible` nor `mask` is given.
    """
    colour = np.asarray(fill, dtype=np.uint8)
    if config.mask:
        visible = np.full(image.shape[:2], 255, dtype=np.uint8) if visible is None else visible
        if rng.random() < config.mask:
            image, uncovered = draw_mask(image, points, config.mask_kinds, rng)
            visible = np.minimum(visible, uncovered)
    seen = None if visible is None else visible[..., None]
    if rng.random() < config.flip:
        image, seen = image[:, ::-1], None if seen is None else seen[:, ::-1]
    if config.pad_crop:
        shift = partial(_shifted, padding=config.pad_crop)
        image, seen = _changed(image, seen, shift, shift, colour, rng)
    if config.rotation:
        turned = partial(_turned, most=config.rotation)
        image, seen = _changed(image, seen, turned, turned, colour, rng)
    if config.random_patch and other is not None and rng.random() < config.random_patch:
        patch = other(rng)
        hidden = None if seen is None else paste_patch(seen, np.zeros_like(seen), _HIDDEN, deepcopy(rng))
        image, seen = paste_patch(image, patch, colour, rng), hidden
    for probability, change, follow in _random_steps(config):
        if probability and rng.random() < probability:
            image, seen = _changed(image, seen, change, follow, colour, rng)
    return image, None if seen is None else seen[..., 0]


def _shifted(image: Pixels, colour: Pixels, rng: np.random.Generator, *, padding: int) -> Pixels:
    return pad_crop(image, padding, colour, rng)


def _turned(image: Pixels, colour: Pixels, rng: np.random.Generator, *, most: float) -> Pixels:
    return turn(image, most, colour, rng)


def _random_steps(config: AugmentConfig) -> tuple[tuple[float, Change, Change | None], ...]:
    """Probability, change, and the change of the visibility that belongs to it, in their order."""
    strengths = (config.brightness, config.contrast, config.saturation)
    operations, magnitude = config.rand_augment_operations, config.rand_augment_magnitude
    policy = partial(rand_augment, operations=operations, magnitude=magnitude)
    mix = partial(aug_mix, severity=config.aug_mix_severity)
    return (
        (config.random_crop, keep_rectangle, keep_rectangle),
        (config.low_resolution, lower_resolution, None),
        (config.photometric, partial(photometric, strengths=strengths, hue=config.hue), None),
        (config.colour, scale_channels, None),
        (config.blur, blur, None),
        (config.grey, to_grey, None),
        (config.noise, add_noise, None),
        (config.rand_augment, policy, partial(policy, moves_only=True)),
        (config.aug_mix, mix, partial(mix, moves_only=True)),
        (config.erasing, erase, erase),
    )


def _changed(
    image: Pixels, seen: Pixels | None, change: Change, follow: Change | None, colour: Pixels, rng: np.random.Generator
) -> tuple[Pixels, Pixels | None]:
    """The image changed, and its visibility [H, W, 1] by the same draws."""
    if seen is None or follow is None:
        return change(image, colour, rng), seen
    again = deepcopy(rng)
    return change(image, colour, rng), follow(seen, _HIDDEN, again)


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
