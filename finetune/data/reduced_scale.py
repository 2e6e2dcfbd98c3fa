"""JPEG files decoded at half, a quarter or an eighth of their size, where the network needs no more: `data.decode`.

libjpeg leaves out the high frequencies of each block of 8 x 8 before it computes pixels, which is faster than decoding
all and resizing, and gives other pixels. So it is asked for, recorded, and done by Pillow alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ...errors import ConfigError
from .dataset import Dataset, ImageSource
from .image_files import UnreadableImageError, decode_image, reduced_by

__all__ = ["ReducedImages", "with_reduced_images"]

_LOOKED_AT = 64
_JPEG = b"\xff\xd8"
"""The first bytes of a JPEG file (ITU-T T.81: start of image)."""


@dataclass(frozen=True)
class ReducedImages:
    """The images of another source, each JPEG at the smallest scale that still has `height` x `width` pixels."""

    source: ImageSource
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Image.Image:
        return self.decoded(index, self.stored(index))

    def stored(self, index: int) -> bytes:
        """What the source stores, behind the size, for the pixels are others than those of the file."""
        return self._mark + self.source.stored(index)

    def decoded(self, index: int, stored: bytes) -> Image.Image:
        """The image of what `stored` returned."""
        file = stored.removeprefix(self._mark)
        if file[:2] != _JPEG:
            return self.source.decoded(index, file)
        return decode_image(io.BytesIO(file), at_least=(self.height, self.width))

    @property
    def _mark(self) -> bytes:
        return f"reduced for {self.height}x{self.width}:".encode()


def with_reduced_images(dataset: Dataset, height: int, width: int) -> Dataset:
    """The data set with its JPEG files decoded at a reduced scale, with a note of how many are.

    Args:
        dataset: The images.
        height: Height of the network's input in pixels.
        width: Its width.

    Raises:
        ConfigError: none of 64 images, evenly spread, is a JPEG of twice that size, so the setting would do nothing.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(_LOOKED_AT, len(dataset))).astype(np.int64)).tolist()
    scales = [_scale(dataset.images, index, height, width) for index in chosen]
    reduced = [scale for scale in scales if scale > 1]
    if not reduced:
        raise ConfigError(
            f"data.decode: reduced does nothing: of {len(chosen)} images of {dataset.name} none is a JPEG file of "
            f"twice the network's {height}x{width} or more; leave it out"
        )
    shown = ", ".join(f"{reduced.count(scale)} at 1/{scale}" for scale in sorted(set(reduced)))
    note = f"JPEG files are decoded at a reduced scale, which changes pixels: of {len(chosen)} looked at {shown}"
    return replace(dataset, images=ReducedImages(dataset.images, height, width), notes=(*dataset.notes, note))


def _scale(images: ImageSource, index: int, height: int, width: int) -> int:
    try:
        stored = images.stored(index)
    except UnreadableImageError:
        return 1
    return reduced_by(stored, (height, width)) if stored[:2] == _JPEG else 1
