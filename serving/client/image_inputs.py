"""Images as people have them (paths, bytes of files, Pillow's images, arrays) as pixels of a model's size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...converters.records.preprocessing import Preprocessing
from ...errors import InputError
from ...finetune.data.image_files import UnreadableImageError, decode_image, printable

__all__ = ["ImageLike", "pixels_of"]

ImageLike = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""A path, the bytes of an image file, an image of Pillow, or RGB pixels uint8 [H, W, 3] (grey: [H, W])."""


def pixels_of(image: ImageLike, preprocessing: Preprocessing, number: int) -> NDArray[np.uint8]:
    """Pixels uint8 [height, width, channels], as `Preprocessing.resize` makes them.

    Raises:
        InputError: it cannot be decoded, or is not an image; `number`, from 0, names what has no path.
    """
    label = printable(image) if isinstance(image, str | Path) else f"image {number}"
    try:
        return preprocessing.resize(_opened(image, label))
    except UnreadableImageError as error:
        raise InputError(f"{label}: cannot be decoded: {error}") from error
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(label) else f"{label}: {error}") from error


def _opened(image: ImageLike, label: str) -> Image.Image:
    if isinstance(image, str | Path):
        return decode_image(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(io.BytesIO(image))
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not fits or not image.size:
            raise InputError(
                f"{label}: expected RGB pixels uint8 [height, width, 3], got {image.dtype} {list(image.shape)}"
            )
        return Image.fromarray(np.ascontiguousarray(image))
    raise InputError(f"{label}: expected a path, bytes, an image of Pillow or an array, got {type(image).__name__}")
