"""The augmentation of training images, as a section of the configuration; the changes are in `data/augmentation.py`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .choices import MaskKind
from .section import Count, NotNegative, Section, Share

__all__ = ["AugmentConfig"]


class AugmentConfig(Section):
    """Random changes of training images, drawn from a generator that is seeded per epoch and sample."""

    mask: Share = 0.0
    """Probability of drawing something on a face that hides a part of it, before all other changes. What stays visible
    is known then, and follows every change that moves or hides a place."""
    mask_kinds: Annotated[tuple[MaskKind, ...], Field(min_length=1)] = ("medical",)
    """What `mask` draws, each as often: medical (a mask over nose, mouth and chin), sunglasses, scarf, hand, or block,
    a rectangle anywhere."""
    mask_points: Annotated[tuple[tuple[NotNegative, NotNegative], ...], Field(min_length=5, max_length=5)] | None = None
    """x and y of the left eye, right eye, nose, left and right corner of the mouth, in pixels of the network's input;
    by default those of a generator, else those of faces aligned to 112 x 112 or 112 x 96, scaled to the input."""
    flip: Share = 0.5
    """Probability of mirroring left and right."""
    pad_crop: Annotated[int, Field(ge=0)] = 0
    """Pixels of padding on each side, before cropping back to size at a random place."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest turn in degrees; each image is turned by -rotation to rotation, and corners get the mean colour."""
    random_patch: Share = 0.0
    """Probability of pasting a rectangle (1 to 50 % of the area) of another training image, as torchreid does."""
    random_crop: Share = 0.0
    """Probability of keeping only a rectangle (20 to 100 % of the area) and filling the rest with the mean colour."""
    low_resolution: Share = 0.0
    """Probability of shrinking to 20 to 100 % of the height and width and enlarging back."""
    photometric: Share = 0.0
    """Probability of changing brightness, contrast, saturation and hue, each by the strength below."""
    brightness: Share = 0.5
    """Strength s of `photometric`: brightness times a factor from 1 - s to 1 + s."""
    contrast: Share = 0.5
    """Strength s of `photometric`: contrast times a factor from 1 - s to 1 + s."""
    saturation: Share = 0.5
    """Strength s of `photometric`: saturation times a factor from 1 - s to 1 + s."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Strength s of `photometric`: hue turned by -s to s of the colour circle."""
    colour: Share = 0.0
    """Probability of scaling each colour channel by its own factor."""
    blur: Share = 0.0
    """Probability of Gaussian blur."""
    grey: Share = 0.0
    """Probability of converting to grey."""
    noise: Share = 0.0
    """Probability of adding Gaussian noise, with a standard deviation of up to 20 of 255."""
    rand_augment: Share = 0.0
    """Probability of RandAugment (arXiv:1909.13719): some operations of one magnitude, drawn from 14."""
    rand_augment_operations: Count = 2
    """Operations of RandAugment in a row."""
    rand_augment_magnitude: Annotated[float, Field(ge=0, le=30)] = 9.0
    """Magnitude of RandAugment; at 30 a rotation by 30 degrees."""
    aug_mix: Share = 0.0
    """Probability of AugMix (arXiv:1912.02781): the image mixed with three chains of one to three operations."""
    aug_mix_severity: Annotated[float, Field(gt=0, le=10)] = 3.0
    """Severity of AugMix's operations; at 10 a rotation by up to 30 degrees."""
    erasing: Share = 0.0
    """Probability of filling a rectangle (2 to 40 % of the area, aspect 0.3 to 3.3) with the mean colour."""
