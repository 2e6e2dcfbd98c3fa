"""JPEG files by simplejpeg, where it is installed and gives Pillow's pixels, bit for bit.

Both are front ends of libjpeg-turbo, each with a copy of its own, so equal pixels are likely and not certain. In each
process, before the first use, both decode small files of every kind that Pillow can write; a kind with one differing
pixel, and every file that is not plain, are left to Pillow, as are files that simplejpeg finds any fault with. So the
pixels of a run do not depend on whether simplejpeg is there, only its speed: Pillow keeps four bytes per pixel.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .header import JpegHeader, Kind, read_header

__all__ = ["decode_plain_jpeg", "decoder_note", "proved_kinds"]

_SUBSAMPLING = (0, 1, 2)
"""Pillow's numbers of 4:4:4, 4:2:2 and 4:2:0."""
_PROOF_SIZES = ((37, 53), (64, 48), (9, 7))
"""Heights and widths, of whole blocks and of others."""
_MOST_PIXELS = 2**26
"""Larger files are left to Pillow, which warns of images that fill the memory."""


def decode_plain_jpeg(encoded: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a plain JPEG file, uint8 RGB [H, W, 3] or grey [H, W, 1]; None where Pillow must decode it."""
    if not _installed():
        return None
    header = read_header(encoded)
    if header is None or header.height * header.width > _MOST_PIXELS or header.kind not in proved_kinds():
        return None
    return _decode(encoded, header)


def decoder_note(stored: bytes) -> str | None:
    """Who decodes plain JPEG files such as `stored`, for the log of a run; None where that is Pillow."""
    if not _installed() or read_header(stored) is None:
        return None
    version, proved = importlib.metadata.version("simplejpeg"), len(proved_kinds())
    return f"JPEG: simplejpeg {version} decodes {proved} of {len(_proof_files())} kinds, with Pillow's pixels"


@cache
def proved_kinds() -> frozenset[Kind]:
    """The kinds of files for which simplejpeg gave Pillow's pixels in this process."""
    equal: dict[Kind, bool] = {}
    for kind, encoded in _proof_files().items():
        for file in encoded:
            header = read_header(file)
            pixels = None if header is None else _decode(file, header)
            with Image.open(io.BytesIO(file), formats=("JPEG",)) as image:
                expected = np.atleast_3d(np.asarray(image))
            equal[kind] = equal.get(kind, True) and pixels is not None and np.array_equal(pixels, expected)
    return frozenset(kind for kind, same in equal.items() if same)


def _decode(encoded: bytes, header: JpegHeader) -> NDArray[np.uint8] | None:
    import simplejpeg

    colours = "GRAY" if len(header.kind[0]) == 1 else "RGB"
    try:
        # strict: an error for what libjpeg only warns of; Pillow then says whether the file is damaged.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, colours, strict=True)
    except ValueError:
        return None
    return pixels


@cache
def _installed() -> bool:
    return importlib.util.find_spec("simplejpeg") is not None


@cache
def _proof_files() -> dict[Kind, tuple[bytes, ...]]:
    """Files of noise on a gradient by Pillow, several of each kind that it can write."""
    files: dict[Kind, list[bytes]] = {}
    rng = np.random.default_rng(0)
    for height, width in _PROOF_SIZES:
        ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
        pixels = np.clip(ramp + rng.normal(0, 40, ramp.shape), 0, 255).astype(np.uint8)
        for image, options in _encodings(Image.fromarray(pixels)):
            written = io.BytesIO()
            image.save(written, "JPEG", **options)
            header = read_header(written.getvalue())
            if header is not None:
                files.setdefault(header.kind, []).append(written.getvalue())
    return {kind: tuple(encoded) for kind, encoded in files.items()}


def _encodings(image: Image.Image) -> Iterator[tuple[Image.Image, dict[str, Any]]]:
    for progressive in (False, True):
        for quality in (30, 75, 95):
            options = {"quality": quality, "progressive": progressive}
            yield image.convert("L"), options
            yield from ((image, {**options, "subsampling": number}) for number in _SUBSAMPLING)
