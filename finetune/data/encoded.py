"""Images as encoded bytes fetched by a function: records, tar members, pickled lists."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from .dataset import UnreadableImageError

__all__ = ["EncodedImages"]


@dataclass(frozen=True)
class EncodedImages:
    """`count` images; `read(index)` gives the bytes of a JPEG, PNG, ... file."""

    count: int
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        try:
            with Image.open(io.BytesIO(self.read(index))) as image:
                image.load()
                return image
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnreadableImageError(str(error)) from error
