"""What the markers of a JPEG file say before its pixels begin (ITU-T T.81, annex B).

Only what decides how a file may be decoded is read. A file that leaves open how its pixels are meant, by an unusual
colour space, precision or orientation, is `None` here: Pillow decides on it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["JpegHeader", "Kind", "read_header"]

Kind = tuple[tuple[tuple[int, int], ...], bool]
"""Horizontal and vertical sampling factor of each component, and whether the file is progressive."""

_FRAMES = frozenset({*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
_PLAIN_FRAMES = {0xC0: False, 0xC2: True}
"""Baseline and progressive Huffman coding, and whether they are progressive."""
_SCAN, _JFIF, _EXIF, _SEVERAL_IMAGES, _ADOBE = 0xDA, 0xE0, 0xE1, 0xE2, 0xEE


@dataclass(frozen=True)
class JpegHeader:
    """Height and width in pixels, and the kind of the file: grey or YCbCr of 8 bits, upright."""

    height: int
    width: int
    kind: Kind


def read_header(encoded: bytes) -> JpegHeader | None:
    """The header of a plain JFIF file; None for other files, and for JPEG files that need Pillow's judgement."""
    if encoded[:2] != b"\xff\xd8":
        return None
    position, jfif, found = 2, False, None
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        end = position + 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        if marker == _SCAN:
            return found if jfif else None
        payload = encoded[position + 4 : end]
        if marker in _FRAMES:
            found = _frame(payload, progressive=_PLAIN_FRAMES[marker]) if marker in _PLAIN_FRAMES else None
            if found is None:
                return None
        elif marker == _JFIF:
            jfif = jfif or payload.startswith(b"JFIF\0")
        elif _changes_the_meaning(marker, payload):
            return None
        position = end
    return None


def _frame(payload: bytes, *, progressive: bool) -> JpegHeader | None:
    """The frame header, of 8 bits and one or three components."""
    if len(payload) < 6 or payload[0] != 8 or payload[5] not in (1, 3) or len(payload) < 6 + 3 * payload[5]:
        return None
    sampling = tuple((payload[7 + 3 * i] >> 4, payload[7 + 3 * i] & 15) for i in range(payload[5]))
    height, width = int.from_bytes(payload[1:3], "big"), int.from_bytes(payload[3:5], "big")
    return JpegHeader(height, width, (sampling, progressive)) if height and width else None


def _changes_the_meaning(marker: int, payload: bytes) -> bool:
    """Whether a segment may state an orientation, several images or another colour space."""
    return (
        (marker == _EXIF and payload.startswith(b"Exif"))
        or (marker == _SEVERAL_IMAGES and payload.startswith(b"MPF"))
        or marker == _ADOBE
    )
