"""What an image is known by in the embedding cache: the SHA-256 of its content as it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import ImageSource

__all__ = ["stored_digests"]


def stored_digests(images: ImageSource, positions: Iterable[int]) -> NDArray[np.uint8]:
    """SHA-256 of the images at `positions`, uint8 [n, 32]: of the bytes of a file or record, or of shape and pixels.

    Raises:
        UnreadableImageError: bytes cannot be read.
    """
    digests = b"".join(hashlib.sha256(images.stored(int(index))).digest() for index in positions)
    return np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)
