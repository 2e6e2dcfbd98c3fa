"""Images in files or as the bytes of files, decoded at each access and turned upright by their EXIF orientation."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps

from .image_formats import read_formats

__all__ = ["EncodedImages", "FileImages", "UnreadableImageError", "decode_image", "printable", "reduced_by"]

_DAMAGE = (OSError, ValueError, SyntaxError, LookupError, TypeError, Image.DecompressionBombError)
"""Exceptions that Pillow raises for damaged files, depending on the format and the kind of damage."""


_ORIENTATION = 0x0112
_SIDEWAYS = range(5, 9)
"""The EXIF tag of the orientation, and its values that turn an image by 90 degrees."""


class UnreadableImageError(Exception):
    """One image cannot be decoded. The user never sees it: `decoding` counts and names such images."""


@dataclass(frozen=True)
class FileImages:
    """Images in files."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        return decode_image(self.paths[index])

    def stored(self, index: int) -> bytes:
        """The bytes of the file."""
        try:
            return self.paths[index].read_bytes()
        except OSError as error:
            raise UnreadableImageError(str(error)) from error

    def decoded(self, index: int, stored: bytes) -> Image.Image:  # noqa: ARG002 - the protocol's signature
        """The image in these bytes of a file."""
        return decode_image(io.BytesIO(stored))


@dataclass(frozen=True)
class EncodedImages:
    """`count` images; `read(index)` returns the bytes of a JPEG, PNG, ... file and must be picklable for workers."""

    count: int
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        return self.decoded(index, self.stored(index))

    def stored(self, index: int) -> bytes:
        """The bytes of the record."""
        try:
            return self.read(index)
        except OSError as error:
            raise UnreadableImageError(str(error)) from error

    def decoded(self, index: int, stored: bytes) -> Image.Image:  # noqa: ARG002 - the protocol's signature
        """The image in these bytes of a record."""
        return decode_image(io.BytesIO(stored))


def decode_image(source: Path | BinaryIO, *, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode an image file and turn it upright.

    Args:
        source: The file.
        at_least: Height and width; a JPEG of twice that or more is decoded at 1/2, 1/4 or 1/8 of its size.

    Raises:
        UnreadableImageError: the file is missing, damaged or not an image.
    """
    try:
        with Image.open(source, formats=read_formats()) as image:
            if at_least is not None:
                _draft(image, at_least)
            image.load()
            _turn_upright(image)
            return image
    except _DAMAGE as error:
        raise UnreadableImageError(str(error)) from error


def reduced_by(stored: bytes, at_least: tuple[int, int]) -> int:
    """By how much `decode_image` would reduce a file: 1, 2, 4 or 8; 1 for one that cannot be opened."""
    try:
        with Image.open(io.BytesIO(stored), formats=read_formats()) as image:
            whole = image.width
            _draft(image, at_least)
            return round(whole / image.width)
    except _DAMAGE:
        return 1


def printable(path: Path | str) -> str:
    """A name for logs and messages, with bytes that are not UTF-8 (lone surrogates in Python) escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _draft(image: Image.Image, at_least: tuple[int, int]) -> None:
    """Let libjpeg compute only as many pixels as are needed; other formats are left as they are."""
    height, width = at_least
    sideways = image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
    image.draft(None, (height, width) if sideways else (width, height))


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except _DAMAGE:
        return  # the orientation cannot be read, but the pixels are whole
