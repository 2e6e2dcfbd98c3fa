"""Market-1501, DukeMTMC-reID, CUHK03-NP and VeRi-776: a folder per role, names `PPPP_cC...jpg`.

`bounding_box_train/`, `query/`, `bounding_box_test/`; VeRi-776 has `image_train/`, `image_query/`, `image_test/`. A
single folder of such files is read as well. Identity -1 is junk and dropped; identity 0000 is a distractor: in the
gallery a wrong answer, nowhere an identity. A few names of another form are left out and reported.
Market-1501: 751 identities and 12 936 images to train, 3 368 queries, 15 913 gallery images, 6 cameras
(Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015). DukeMTMC-reID has the same form and 8
cameras, VeRi-776 (Liu et al., ECCV 2016) has 20.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from ....errors import DataError, InputError
from ..dataset import NOBODY, Dataset, encode_identities
from ..identity_keys import few_odd_notes, too_few_identities
from ..image_files import FileImages, printable
from .folder_listing import ImageListing, list_images

__all__ = ["has_flat_names", "is_flat_market1501", "is_market1501", "open_flat_market1501", "open_market1501"]

_NAME = re.compile(r"(-?\d{1,9})_c(\d{1,9})")
_ODD = "have names of another form than 0002_c1s1_000451_03.jpg"
_DISTRACTOR = 0
_ROLES = (("bounding_box_train", "query", "bounding_box_test"), ("image_train", "image_query", "image_test"))
"""Folders of the training images, the queries and the gallery."""


def is_market1501(root: Path) -> bool:
    """Whether `root` has a folder of training images or of a gallery under one of the known names."""
    return _roles(root) is not None


def open_market1501(root: Path, subset: Literal["train", "test"] = "train") -> Dataset:
    """The training images, or queries and gallery together, with `is_query` set.

    Raises:
        InputError: a folder is missing.
        DataError: a folder is empty, most of its names have another form, or fewer than two identities are left.
    """
    train, query, gallery = _roles(root) or _ROLES[0]
    wanted = {train: False} if subset == "train" else {query: True, gallery: False}
    listings = {}
    for folder, is_query in wanted.items():
        if not (root / folder).is_dir():
            raise InputError(f"{root}: no folder {folder}/; such a data set has {train}, {query}, {gallery}")
        listing = list_images(root / folder)
        if not listing.paths:
            raise DataError(f"{root / folder}: no images; such a data set has some in each of its folders")
        listings[folder] = (listing, is_query)
    return _labelled(f"{printable(root)} ({subset})", root, list(listings.values()))


def has_flat_names(root: Path) -> bool:
    """Whether a file of this form lies in the folder itself."""
    return any(_NAME.match(path.name) and path.is_file() for path in root.iterdir())


def is_flat_market1501(listing: ImageListing) -> bool:
    """Whether most of the images lie in the folder itself, under names of this form."""
    named = sum(path.parent == listing.root and _NAME.match(path.name) is not None for path in listing.paths)
    return 2 * named > len(listing.paths)


def open_flat_market1501(root: Path, listings: list[tuple[ImageListing, bool]]) -> Dataset:
    """The images of single folders, such as `bounding_box_train` itself, each with whether it holds queries.

    Args:
        root: What messages name; the folders lie below it.
        listings: Their images; if no folder holds queries, there are no fixed ones.

    Raises:
        DataError: most names have another form, or fewer than two identities are left.
    """
    return _labelled(printable(root), root, listings)


def _roles(root: Path) -> tuple[str, str, str] | None:
    return next((names for names in _ROLES if any((root / name).is_dir() for name in (names[0], names[2]))), None)


def _labelled(name: str, root: Path, listings: list[tuple[ImageListing, bool]]) -> Dataset:
    """The images of some folders, each with whether it holds queries."""
    paths: list[Path] = []
    keys: list[int] = []
    cameras: list[int] = []
    is_query: list[bool] = []
    notes: list[str] = []
    for listing, query in listings:
        found = [(path, _NAME.match(path.name)) for path in listing.paths]
        named = [(path, int(match[1]), int(match[2])) for path, match in found if match]
        odd = [printable(path.relative_to(root)) for path, match in found if not match]
        kept = [image for image in named if image[1] >= 0]
        notes += [*listing.notes(), *few_odd_notes(printable(listing.root), odd, len(found), _ODD)]
        if junk := len(named) - len(kept):
            notes.append(f"{junk} junk images (a negative identity) dropped")
        paths += [path for path, _, _ in kept]
        keys += [key for _, key, _ in kept]
        cameras += [camera for _, _, camera in kept]
        is_query += [query] * len(kept)
    identities = encode_identities([NOBODY if key == _DISTRACTOR else key for key in keys])
    if not identities.size or identities.max() < 1:
        raise too_few_identities(name, f"{len(set(keys) - {_DISTRACTOR})} identities", notes)
    if distractors := int((identities == NOBODY).sum()):
        notes.append(f"{distractors} distractors (identity 0000) are of nobody")
    return Dataset(
        name=name,
        images=FileImages(tuple(paths)),
        identities=identities,
        cameras=np.array(cameras, dtype=np.int64),
        names=tuple(printable(path.relative_to(root)) for path in paths),
        is_query=np.array(is_query) if any(query for _, query in listings) else None,
        notes=tuple(notes),
    )
