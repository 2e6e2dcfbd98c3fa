"""Market-1501 and DukeMTMC-reID: `bounding_box_train/`, `query/`, `bounding_box_test/`, names `PPPP_cC...jpg`.

Identity -1 is junk and dropped; identity 0000 is a distractor and stays in the gallery as a wrong answer.
Market-1501: 751 identities and 12 936 images to train, 3 368 queries, 15 913 gallery images, 6 cameras
(Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015). DukeMTMC-reID has the same form and 8
cameras.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from ....errors import DataError, InputError
from ..dataset import Dataset, encode_identities
from ..image_files import FileImages, printable
from .image_folder import list_images

__all__ = ["is_market1501", "open_market1501"]

_NAME = re.compile(r"(-?\d{1,9})_c(\d{1,9})")
_JUNK = -1


def is_market1501(root: Path) -> bool:
    """Whether `root` has a folder `bounding_box_train/` or `bounding_box_test/`."""
    return (root / "bounding_box_train").is_dir() or (root / "bounding_box_test").is_dir()


def open_market1501(root: Path, subset: Literal["train", "test"] = "train") -> Dataset:
    """The training images, or queries and gallery together, with `is_query` set.

    Raises:
        InputError: a folder is missing.
        DataError: a folder is empty, a file name has another form, or fewer than two identities are left.
    """
    if subset == "train":
        return _labelled(f"{printable(root)} (train)", root, {"bounding_box_train": False})
    return _labelled(f"{printable(root)} (test)", root, {"query": True, "bounding_box_test": False})


def _labelled(name: str, root: Path, roles: dict[str, bool]) -> Dataset:
    """The images of some folders; `roles` says of each whether it holds queries."""
    paths: list[Path] = []
    keys: list[int] = []
    cameras: list[int] = []
    is_query: list[bool] = []
    notes: list[str] = []
    junk = 0
    for folder, query in roles.items():
        if not (root / folder).is_dir():
            raise InputError(
                f"{root}: no folder {folder}/; Market-1501 has bounding_box_train, query, bounding_box_test"
            )
        listing = list_images(root / folder)
        if not listing.paths:
            raise DataError(f"{root / folder}: no images; Market-1501 has some in each of its folders")
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
    if len(set(keys)) < 2:
        raise DataError(f"{name}: {len(set(keys))} identities; at least 2 are needed")
    if junk:
        notes.append(f"{junk} junk images (identity -1) dropped")
    return Dataset(
        name=name,
        images=FileImages(tuple(paths)),
        identities=encode_identities(keys),
        cameras=np.array(cameras, dtype=np.int64),
        names=tuple(printable(path.relative_to(root)) for path in paths),
        is_query=np.array(is_query) if any(roles.values()) else None,
        notes=tuple(notes),
    )
