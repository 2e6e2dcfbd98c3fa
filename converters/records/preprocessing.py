"""Preprocessing: how an image becomes network input. A property of the model, stored in bundles and ONNX metadata.

Training, evaluation, embedding and serving all use this one function. It needs only NumPy and Pillow, so that serving
can import it without torch.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import InputError, nearest

__all__ = ["ARCFACE", "IMAGENET", "METADATA_KEY", "Preprocessing"]

METADATA_KEY = "rtool.preprocessing"
"""Key of a model's metadata, and of a served model's parameters, that holds a preprocessing as JSON."""

_ORDERS = ("rgb", "bgr", "grey")
_LAYOUTS = ("nchw", "nhwc")

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `height` x `width`, reorder channels, then `(pixel - mean) / std` on pixels in 0..255.

    `mean` and `std` have one value per channel, in units of the pixels and in the order of `channel_order`.

    >>> from PIL import Image
    >>> IMAGENET([Image.new("RGB", (64, 64))]).shape
    (1, 3, 256, 128)

    Raises:
        InputError: a size or std that is not positive, a number that is none or not finite, an unknown interpolation,
            order or layout, or a mean or std of the wrong length.
    """

    height: int
    width: int
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    channel_order: Literal["rgb", "bgr", "grey"] = "rgb"
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    layout: Literal["nchw", "nhwc"] = "nchw"

    def __post_init__(self) -> None:
        if not all(
            isinstance(value, int | np.integer) and not isinstance(value, bool) for value in (self.height, self.width)
        ):
            raise InputError(f"preprocessing: expected whole numbers as size, got {self.height!r} x {self.width!r}")
        if not all(_is_number(value) for value in (*self.mean, *self.std)):
            raise InputError(f"preprocessing: expected numbers as mean and std, got {self.mean} and {self.std}")
        if self.height <= 0 or self.width <= 0:
            raise InputError(f"preprocessing: size must be positive, got {self.height}x{self.width}")
        if self.channel_order not in _ORDERS or self.layout not in _LAYOUTS:
            raise InputError(
                f"preprocessing: expected one of {', '.join(_ORDERS)} and one of {', '.join(_LAYOUTS)}, got "
                f"{self.channel_order!r} and {self.layout!r}"
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise InputError(
                f"preprocessing: {self.channel_order} needs {self.channels} numbers in mean and std, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise InputError(f"preprocessing: mean and std must be finite, got {self.mean} and {self.std}")
        if any(value <= 0 for value in self.std):
            raise InputError(f"preprocessing: std must be positive, got {self.std}")
        if self.interpolation not in _RESAMPLING:
            raise InputError(f"preprocessing: unknown interpolation {self.interpolation!r}")

    @property
    def channels(self) -> int:
        """The number of input channels: 1 for grey, else 3."""
        return 1 if self.channel_order == "grey" else 3

    def resize(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`image` as uint8 pixels [height, width, channels] in RGB (or grey) order, ready to be augmented.

        Args:
            image: An image, or pixels uint8 [h, w, 3] in RGB order or [h, w, 1] of grey.

        Raises:
            InputError: the pixels are floating point or have over 16 bits, so their range is unknown.
        """
        if isinstance(image, np.ndarray):
            if image.shape == (self.height, self.width, self.channels):
                return image
            image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        image = _with_8_bits(image)
        mode = "L" if self.channel_order == "grey" else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), _RESAMPLING[self.interpolation])
        pixels = np.asarray(image, dtype=np.uint8)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB (or grey) pixels uint8 [N, H, W, C] -> network input float32 in this layout and channel order."""
        if self.channel_order == "bgr":
            pixels = pixels[..., ::-1]
        values = (pixels.astype(np.float32) - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.layout == "nchw" else values)

    def __call__(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """Images -> one normalised batch, float32 [N, C, H, W] (or [N, H, W, C] when layout is nhwc)."""
        return self.normalise(np.stack([self.resize(image) for image in images]))

    def __str__(self) -> str:
        """Size, channels, mean, deviation and interpolation on one line."""
        mean, std = ([round(value, 4) for value in values] for values in (self.mean, self.std))
        channels = f"{self.channels} channel{'s' * (self.channels > 1)} ({self.channel_order})"
        size = f"{self.height}x{self.width}, {channels}"
        return f"{size}, mean {mean}, std {std}, {self.interpolation}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`; keys that are left out have their defaults.

        Raises:
            InputError: an unknown or missing key, or a mean or std that is not a list.
        """
        if not isinstance(data, dict):
            raise InputError(f"preprocessing: expected keys and values, got {type(data).__name__}")
        known = [entry.name for entry in fields(cls)]
        for name in data:
            if name not in known:
                raise InputError(f"preprocessing: unknown key {name!r}; {nearest(str(name), known)}")
        for name in ("height", "width"):
            if name not in data:
                raise InputError(f"preprocessing: {name!r} is missing; give the size that the model expects")
        try:
            values: dict[str, Any] = {k: tuple(v) if k in ("mean", "std") else v for k, v in data.items()}
            return cls(**values)
        except TypeError as error:
            raise InputError(f"preprocessing: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _with_8_bits(image: Image.Image) -> Image.Image:
    """`image`, with 16-bit grey scaled to 8 bits; Pillow's own conversion clips at 255 instead."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise InputError(f"an image of floating point or 32-bit pixels (mode {image.mode}); save it with 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


IMAGENET = Preprocessing(256, 128)
"""Person re-identification: 256 x 128, ImageNet statistics (deep-person-reid's feature extractor)."""

ARCFACE = Preprocessing(112, 112, mean=(127.5,) * 3, std=(127.5,) * 3)
"""Aligned faces: 112 x 112 RGB, scaled to -1..1 (insightface's ArcFace models)."""
