"""Folders of crops: `TRACK/`, `CAMERA/TRACK/`, names of Market-1501, and the crops that trackers save.

A folder is read as CAMERA/TRACK where every image lies two folders deep, as TRACK where it lies one deep. The last
number of a file name orders the crops of a track; it is a time, by which tracks can overlap, only where a layout says
so: names of Market-1501, and BoxMOT's crops/CLASS/ID/FRAME.jpg.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from ....errors import DataError
from ....finetune.data.formats.folder_listing import ImageListing, list_images
from ....finetune.data.image_files import FileImages, printable
from .crops import Crop, Crops, make_crops

__all__ = ["folder_crops", "last_number"]

_MARKET = re.compile(r"(-?\d{1,9})_c(\d{1,9})(?:s(\d{1,4}))?_f?(\d{1,12})")
_PERSON = ("person", "0")
"""Names of the class in crops that trackers save."""


def folder_crops(root: Path) -> Crops:
    """Read crops below a folder.

    Raises:
        DataError: there are no images, they lie at mixed depths, or a folder holds none.
    """
    listing = list_images(root)
    if not listing.paths:
        raise DataError(f"{root}: no images; expected TRACK/image.jpg or CAMERA/TRACK/image.jpg")
    notes = list(listing.notes())
    saved = root if root.name == "crops" else root / "crops"
    if saved.is_dir() and any((saved / name).is_dir() for name in _PERSON):
        found, kind = _saved_by_tracker(saved, listing, notes), "saved"
    else:
        flat = [path for path in listing.paths if path.parent == root]
        named = sum(_MARKET.match(path.name) is not None for path in listing.paths)
        market = len(flat) == len(listing.paths) and 2 * named > len(flat)
        found, kind = (_of_market(listing, notes), "market") if market else (_of_folders(root, listing), "plain")
    timed = kind == "market" or (kind == "saved" and all(crop.frame is not None for crop in found))
    if not timed:
        notes.append("frame numbers order the crops of a track and are not taken as times")
    images = FileImages(tuple(listing.paths))
    return make_crops(printable(root), images, found, timed=timed, notes=notes, folder=root)


def last_number(name: str) -> int | None:
    """The last number in a file name without its suffix; None without one."""
    found = re.findall(r"\d+", Path(name).stem)
    return int(found[-1][-15:]) if found else None


def _crop(listing: ImageListing, image: int, track: str, camera: str) -> Crop:
    path = listing.paths[image]
    return Crop(
        image,
        printable(path.relative_to(listing.root)),
        track,
        camera,
        frame=last_number(path.name),
        path=path.absolute(),
    )


def _of_folders(root: Path, listing: ImageListing) -> list[Crop]:
    depths = Counter(len(path.relative_to(root).parts) - 1 for path in listing.paths)
    depth = max((level for level in depths if level in (1, 2)), key=lambda level: depths[level], default=None)
    if depth is None:
        raise DataError(
            f"{root}: images lie {min(depths)} folders deep; expected TRACK/image.jpg or CAMERA/TRACK/image.jpg"
        )
    if others := len(listing.paths) - depths[depth]:
        example = next(path for path in listing.paths if len(path.relative_to(root).parts) - 1 != depth)
        layout = "TRACK/image.jpg" if depth == 1 else "CAMERA/TRACK/image.jpg"
        raise DataError(
            f"{root}: {depths[depth]} images lie as {layout} and {others} do not, such as "
            f"{printable(example.relative_to(root))}; move them, or give a manifest with path,track,camera"
        )
    _refuse_empty(root, depth, listing)
    found = []
    for image, path in enumerate(listing.paths):
        parts = path.relative_to(root).parts
        found.append(_crop(listing, image, printable(parts[depth - 1]), printable(parts[0]) if depth == 2 else ""))
    return found


def _refuse_empty(root: Path, depth: int, listing: ImageListing) -> None:
    """Refuse a track without an image."""
    held = {path.parent for path in listing.paths}
    pattern = "*" if depth == 1 else "*/*"
    empty = sorted(path for path in root.glob(pattern) if path.is_dir() and path not in held and path.name[0] != ".")
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise DataError(
            f"{printable(empty[0])}{more}: a track without an image; remove the folder, or put its crops in"
        )


def _of_market(listing: ImageListing, notes: list[str]) -> list[Crop]:
    found, junk = [], 0
    for image, path in enumerate(listing.paths):
        match = _MARKET.match(path.name)
        if match is None:
            raise DataError(f"{printable(path)}: expected a name like 0002_c1s1_000451_03.jpg")
        identity, camera, sequence, frame = match.groups()
        if int(identity) <= 0:
            junk += 1
            continue
        name = f"{identity}s{sequence}" if sequence else identity
        # sequences are recordings of their own: ten million frames apart
        moment = int(frame) + 10_000_000 * int(sequence or 0)
        name_of_file = printable(path.relative_to(listing.root))
        found.append(Crop(image, name_of_file, name, f"c{camera}", moment, path=path.absolute(), truth=identity))
    if junk:
        notes.append(f"{junk} images of nobody left out (identity 0000 or -1)")
    return found


def _saved_by_tracker(saved: Path, listing: ImageListing, notes: list[str]) -> list[Crop]:
    """crops/CLASS/ID/FRAME.jpg of BoxMOT, or crops/CLASS/*.jpg of Ultralytics, which has no tracks."""
    found, other, alone = [], 0, 0
    for image, path in enumerate(listing.paths):
        parts = path.relative_to(saved).parts if path.is_relative_to(saved) else ()
        if len(parts) not in (2, 3) or parts[0] not in _PERSON:
            other += 1
        elif len(parts) == 3:
            found.append(_crop(listing, image, printable(parts[1]), ""))
        else:
            alone += 1
            crop = _crop(listing, image, printable(Path(parts[1]).stem), "")
            found.append(Crop(crop.image, crop.name, crop.track, path=crop.path))
    if other:
        notes.append(f"{other} images of other classes than person left out")
    if alone:
        notes.append(f"{alone} images in crops/person have no track number: each is a track of its own")
    if not found:
        raise DataError(f"{saved}: no crops of persons; expected crops/person/ID/FRAME.jpg")
    return found
