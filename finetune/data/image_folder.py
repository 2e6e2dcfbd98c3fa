"""Image folder: one sub-folder an identity, `IDENTITY/ANYTHING.jpg`; deeper folders belong to their first level.

Camera numbers are read from names like `0002_c1s1_000451_03.jpg` when every file has one, else unknown. Files named
after another image plus a suffix (`1.pgm.png` beside `1.pgm`) are converted copies: kept, they would put an image
and its copy on both sides of an evaluation, so they are left out and reported.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...errors import DataError, InputError
from .dataset import UNKNOWN_CAMERA, Dataset, FileImages, encode_identities

__all__ = ["IMAGE_SUFFIXES", "list_images", "open_image_folder"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".pnm", ".webp", ".tif", ".tiff"})

_CAMERA = re.compile(r"_c(\d+)")


def open_image_folder(root: Path) -> Dataset:
    """Read the layout `root/IDENTITY/**/image`.

    Raises:
        InputError: `root` is no folder.
        DataError: no sub-folder holds an image, or only one does.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one sub-folder of images an identity")
    paths, copies = list_images(root)
    paths = [path for path in paths if len(path.relative_to(root).parts) > 1]
    if not paths:
        raise DataError(f"{root}: no images in sub-folders; expected {root.name}/IDENTITY/image.jpg")
    identities = encode_identities([path.relative_to(root).parts[0] for path in paths])
    if identities.max() == 0:
        raise DataError(
            f"{root}: one identity ({paths[0].relative_to(root).parts[0]}); at least 2 are needed, one sub-folder each"
        )
    cameras = [_CAMERA.search(path.name) for path in paths]
    known = all(cameras)
    notes: tuple[str, ...] = ()
    if copies:
        notes = (f"{len(copies)} converted copies left out, such as {copies[0].relative_to(root)}",)
    return Dataset(
        name=str(root),
        images=FileImages(tuple(paths)),
        identities=identities,
        cameras=np.array([int(m[1]) if known and m else UNKNOWN_CAMERA for m in cameras], dtype=np.int64),
        names=tuple(str(path.relative_to(root)) for path in paths),
        notes=notes,
    )


def list_images(root: Path) -> tuple[list[Path], list[Path]]:
    """Image files below `root` in a natural order (2.pgm before 10.pgm), and the converted copies left out."""
    found = {path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()}
    copies = {path for path in found if path.with_suffix("") in found}
    ordered = sorted(found - copies, key=_natural)
    return ordered, sorted(copies, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
