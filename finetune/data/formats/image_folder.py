"""Image folder: one sub-folder per identity, `IDENTITY/ANYTHING.jpg`; deeper folders belong to their first level.

Camera numbers are read from names in Market-1501's and DukeMTMC's form, `0002_c1s1_000451_03.jpg` and
`0005_c2_f0046985.jpg`, if every file has one; else they are unknown. Left out and reported are files named after
another image plus a suffix (`1.pgm.png` beside `1.pgm`), converted copies that would put an image and its copy on both
sides of an evaluation; files that file managers and notebooks leave behind; and images that lie in no sub-folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....errors import DataError, InputError
from ..dataset import UNKNOWN_CAMERA, Dataset, encode_identities
from ..image_files import FileImages, printable

__all__ = ["IMAGE_SUFFIXES", "ImageListing", "list_images", "open_image_folder"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".pgm", ".ppm", ".pnm", ".webp", ".tif", ".tiff"})

_CAMERA = re.compile(r"\d+_c(\d{1,9})(?:s\d+)?_")


@dataclass(frozen=True)
class ImageListing:
    """Image files below `root` in a natural order (2.pgm before 10.pgm), and those left out."""

    root: Path
    paths: list[Path]
    copies: list[Path]
    strays: list[Path]
    links: list[Path]

    def notes(self) -> tuple[str, ...]:
        """What was left out, one line per kind."""
        kinds = (
            (self.copies, "converted copies"),
            (self.strays, "images in hidden files and folders and in __MACOSX"),
            (self.links, "links to folders that are read already"),
        )
        return tuple(
            f"{len(found)} {kind} left out, such as {printable(found[0].relative_to(self.root))}"
            for found, kind in kinds
            if found
        )


def open_image_folder(root: Path) -> Dataset:
    """Read the layout `root/IDENTITY/**/image`.

    Raises:
        InputError: `root` is not a folder.
        DataError: no sub-folder holds an image, or only one does.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one sub-folder of images per identity")
    listing = list_images(root)
    paths = [path for path in listing.paths if path.parent != root]
    if not paths:
        raise DataError(f"{root}: no images in sub-folders; expected {root.name}/IDENTITY/image.jpg")
    identities = encode_identities([path.relative_to(root).parts[0] for path in paths])
    if identities.max() == 0:
        only = printable(paths[0].relative_to(root).parts[0])
        raise DataError(f"{root}: one identity ({only}); at least 2 are needed, one sub-folder each")
    cameras = [_CAMERA.match(path.name) for path in paths]
    known = all(cameras)
    notes = listing.notes()
    loose = len(listing.paths) - len(paths)
    if loose:
        notes += (f"{loose} images outside of sub-folders left out: they have no identity",)
    return Dataset(
        name=printable(root),
        images=FileImages(tuple(paths)),
        identities=identities,
        cameras=np.array([int(m[1]) if known and m else UNKNOWN_CAMERA for m in cameras], dtype=np.int64),
        names=tuple(printable(path.relative_to(root)) for path in paths),
        notes=notes,
    )


def list_images(root: Path) -> ImageListing:
    """Find the image files below `root`, also through links to folders.

    Raises:
        DataError: a folder cannot be read.
    """
    links: list[Path] = []
    found = {path for path in _walk(root, links) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()}
    strays = {path for path in found if any(map(_is_stray, path.relative_to(root).parts))}
    copies = {path for path in found - strays if path.with_suffix("") in found}
    kept = (found - strays - copies, copies, strays, links)
    return ImageListing(root, *(sorted(paths, key=_natural) for paths in kept))


def _walk(root: Path, left_out: list[Path]) -> Iterator[Path]:
    """All files. A link to a folder is followed once, and never back into `root`, which would not end."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: this folder cannot be read: {error.strerror}") from error

    entered = {Path(os.path.realpath(root))}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        for name in sorted(folders):
            path = Path(folder, name)
            if path.is_symlink():
                target = Path(os.path.realpath(path))
                if any(target.is_relative_to(known) or known.is_relative_to(target) for known in entered):
                    left_out.append(path)
                    folders.remove(name)
                entered.add(target)
        yield from (Path(folder, name) for name in files)


def _is_stray(part: str) -> bool:
    """Whether a name is of thumbnails, `.ipynb_checkpoints`, or macOS's files in archives (`__MACOSX`, `._1.jpg`)."""
    return part.startswith(".") or part == "__MACOSX"


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if number % 2 else (-1, part) for number, part in enumerate(parts)]
