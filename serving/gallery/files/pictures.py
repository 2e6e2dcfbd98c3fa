"""Pictures of a gallery: the animation of a person, the strip of a track, and crops that have no file of their own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..found import Found
from .animations import MOST_FRAMES, animated, evenly, letterboxed

__all__ = ["person_animation", "strip_frames", "track_strip", "write_crops"]

_STRIP = (64, 128)
"""Width and height of a crop in a strip, pixels."""


def person_animation(found: Found, person: int) -> bytes:
    """The best crops of one person as WebP, in the order of frames, at most 60 evenly spread."""
    own = np.isin(found.crops.track[found.chosen], found.people.people[person].tracks)
    rows = found.chosen[own]
    rows = rows[np.argsort(found.crops.frame[rows], kind="stable")]
    return animated(_images(found, rows[evenly(len(rows), MOST_FRAMES)]))


def strip_frames(tracks: int) -> int:
    """Crops of each track that a page of so many tracks shows, so that it stays below 20 MB."""
    return 8 if tracks <= 500 else 4 if tracks <= 1000 else 2


def track_strip(found: Found, track: int, most: int) -> tuple[bytes, int]:
    """The best crops of a track side by side as WebP, and how many."""
    own = found.crops.rows_of(track)
    rows = found.chosen[slice(*np.searchsorted(found.chosen, [own[0], own[-1] + 1]))]
    images = _images(found, rows[evenly(len(rows), most)])
    strip = Image.new("RGB", (_STRIP[0] * len(images), _STRIP[1]))
    for place, image in enumerate(images):
        strip.paste(letterboxed(image, _STRIP), (place * _STRIP[0], 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="WEBP", quality=72, method=2)
    return buffer.getvalue(), len(images)


def _images(found: Found, rows: NDArray[np.int64]) -> list[Image.Image]:
    return [found.crops.images[int(row)] for row in rows]


def write_crops(found: Found, folder: Path) -> Sequence[Path | None]:
    """The path of every crop; crops of people that have no file are written as `crops/NNNNNN.png`, and named so."""
    paths: list[Path | None] = []
    for row, path in enumerate(found.crops.paths):
        if path is not None or found.people.of_track[found.crops.track[row]] < 0:
            paths.append(path)
            continue
        name = Path("crops") / f"{row:06d}.png"
        (folder / name.parent).mkdir(exist_ok=True)
        found.crops.images[row].convert("RGB").save(folder / name, format="PNG", compress_level=1)
        paths.append(name)
    return paths
