"""What an image is known by in the embedding cache: the SHA-256 of its content as it is stored.

That is the bytes of a file or record; of an image that has neither, as the generators draw them, its shape and pixels.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.dataset import ImageSource

__all__ = ["DigestedImages", "pixel_digests"]


def pixel_digests(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """SHA-256 uint8 [N, 32] of images in memory [N, H, W, C], of shape and pixels of each."""
    shape = f"{pixels.shape[1:]}".encode()
    digests = b"".join(hashlib.sha256(shape + image.tobytes()).digest() for image in pixels)
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)


class DigestedImages:
    """The images of another source, each read once for both its digest and its pixels.

    So a file that is replaced meanwhile cannot lend its digest to the pixels of another. Safe to use from several
    threads.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self.digests = np.zeros((len(source), 32), dtype=np.uint8)
        """Of the images that were read so far, uint8 [N, 32]; the others' are 0."""

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Image.Image:
        return self.decoded(index, self.stored(index))

    def stored(self, index: int) -> bytes:
        """What the image is known by."""
        stored = self._source.stored(index)
        self.digests[index] = np.frombuffer(hashlib.sha256(stored).digest(), dtype=np.uint8)
        return stored

    def decoded(self, index: int, stored: bytes) -> Image.Image:
        """The image of what `stored` returned."""
        return self._source.decoded(index, stored)
