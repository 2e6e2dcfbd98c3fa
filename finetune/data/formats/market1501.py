"""Market-1501, DukeMTMC-reID, CUHK03-NP and VeRi-776: a folder per role, names `PPPP_cC...jpg`.

`bounding_box_train/`, `query/`, `bounding_box_test/`; VeRi-776 has `image_train/`, `image_query/`, `image_test/`. A
single folder of such files, without sub-folders, is read as well. Identity -1 is junk and dropped; identity 0000 is a
distractor: in the gallery a wrong answer, nowhere an identity.
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
from ..identity_keys import too_few_identities
from ..image_files import FileImages, printable
from .folder_listing import ImageListing, list_images

__all__ = ["is_flat_market1501", "is_market1501", "open_flat_market1501", "open_market1501"]

_NAME = re.compile(r"(-?\d{1,9})_c(\d{1,9})")
_JUNK = -1
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
        DataError: a folder is empty, a file name has another form, or fewer than two identities are left.
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


def is_flat_market1501(listing: ImageListing) -> bool:
    """Whether the images lie in one folder, without sub-folders, and most have names of this form."""
    flat = [path for path in listing.paths if path.parent == listing.root]
    named = sum(_NAME.match(path.name) is not None for path in flat)
    return len(flat) == len(listing.paths) and 2 * named > len(flat)


def open_flat_market1501(listing: ImageListing) -> Dataset:
    """The images of one folder, such as `bounding_box_train` itself; without fixed queries.

    Raises:
        DataError: a file name has another form, or fewer than two identities are left.
    """
    return _labelled(printable(listing.root), listing.root, [(listing, False)])


def _roles(root: Path) -> tuple[str, str, str] | None:
    return next((names for names in _ROLES if any((root / name).is_dir() for name in (names[0], names[2]))), None)


def _labelled(name: str, root: Path, listings: list[tuple[ImageListing, bool]]) -> Dataset:
    """The images of some folders, each with whether it holds queries."""
    paths: list[Path] = []
    keys: list[int] = []
    cameras: list[int] = []
    is_query: list[bool] = []
    notes: list[str] = []
    junk = 0
    for listing, query in listings:
        notes += listing.notes()
        for path in listing.paths:
            match = _NAME.match(path.name)
            if match is None:
                raise DataError(f"{printable(path)}: expected a name like 0002_c1s1_000451_03.jpg")
            if int(match[1]) == _JUNK:
                junk += 1
                continue
            paths.append(path)
            keys.append(int(match[1]))
            cameras.append(int(match[2]))
            is_query.append(query)
    if junk:
        notes.append(f"{junk} junk images (identity -1) dropped")
    identities = encode_identities([NOBODY if key == _DISTRACTOR else key for key in keys])
    if not identities.size or identities.max() < 1:
        found = len(set(keys) - {_DISTRACTOR})
        raise too_few_identities(name, f"{found} identities", notes)
    if distractors := int((identities == NOBODY).sum()):
        notes.append(f"{distractors} distractors (identity 0000) are of nobody")
    return Dataset(
        name=name,
        images=FileImages(tuple(paths)),
        identities=identities,
        cameras=np.array(cameras, dtype=np.int64),
        names=tuple(printable(path.relative_to(root)) for path in paths),
        is_query=np.array(is_query) if any(is_query) else None,
        notes=tuple(notes),
    )
