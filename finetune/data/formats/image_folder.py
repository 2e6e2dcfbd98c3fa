"""Image folder: one sub-folder per identity, `IDENTITY/ANYTHING.jpg`; deeper folders belong to their first level.

Camera numbers are read from names in Market-1501's and DukeMTMC's form, `0002_c1s1_000451_03.jpg` and
`0005_c2_f0046985.jpg`, if most files have one; the others' cameras are unknown then, and retrieval leaves them out.
`0000_...` in a folder `0000` is such a set's distractor, of nobody. Images that lie in no sub-folder are left out and
reported, as is what `folder_listing` leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ....errors import DataError, InputError
from ..dataset import NOBODY, UNKNOWN_CAMERA, Dataset, encode_identities
from ..identity_keys import NoIdentity, identity_key, left_out_notes, too_few_identities
from ..image_files import FileImages, printable
from .folder_listing import list_images

__all__ = ["open_image_folder", "open_image_folders"]

_CAMERA = re.compile(r"(\d+)_c(\d{1,9})(?:s\d+)?_")


def open_image_folder(root: Path) -> Dataset:
    """Read the layout `root/IDENTITY/**/image`.

    Raises:
        InputError: `root` is not a folder.
        DataError: no sub-folder holds an image, or only one does.
    """
    return open_image_folders(root, {root: False})


def open_image_folders(root: Path, folders: Mapping[Path, bool]) -> Dataset:
    """Read `FOLDER/IDENTITY/**/image` of several folders below `root`; an identity may be in each.

    Args:
        root: What messages name.
        folders: By folder, whether its images are the queries of a retrieval; if none is, there are no fixed queries.

    Raises:
        InputError: `root` is not a folder.
        DataError: no sub-folder holds an image, or only one does.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one sub-folder of images per identity")
    found: list[tuple[Path, str | NoIdentity, bool]] = []
    notes: list[str] = []
    for folder, query in folders.items():
        listing = list_images(folder)
        inside = [path for path in listing.paths if path.parent != folder]
        found += [(path, identity_key(path.relative_to(folder).parts[0]), query) for path in inside]
        notes += listing.notes()
        if loose := len(listing.paths) - len(inside):
            notes.append(f"{loose} images outside of sub-folders left out: they have no identity")
    kept = [(path, key, query) for path, key, query in found if not isinstance(key, NoIdentity)]
    notes += left_out_notes([key for _, key, _ in found], [printable(path.relative_to(root)) for path, _, _ in found])
    if not kept:
        raise DataError(f"{root}: no images in sub-folders; expected {root / 'IDENTITY' / 'image.jpg'}")
    paths = [path for path, _, _ in kept]
    cameras, camera_notes = _cameras(paths)
    keys = [
        NOBODY if _is_distractor(path, key, camera) else key
        for (path, key, _), camera in zip(kept, cameras, strict=True)
    ]
    identities = encode_identities(keys)
    if identities.max() <= 0:
        only = printable(str(kept[0][1]))
        raise too_few_identities(root, f"one identity ({only}), and each has a sub-folder", notes)
    if distractors := int((identities == NOBODY).sum()):
        notes.append(f"{distractors} distractors (identity 0000) are of nobody")
    return Dataset(
        name=printable(root),
        images=FileImages(tuple(paths)),
        identities=identities,
        cameras=np.array(cameras, dtype=np.int64),
        names=tuple(printable(path.relative_to(root)) for path in paths),
        is_query=np.array([query for _, _, query in kept]) if any(folders.values()) else None,
        notes=(*notes, *camera_notes),
    )


def _cameras(paths: list[Path]) -> tuple[list[int], list[str]]:
    """Camera numbers from the names if most have one, and a note on those that have none."""
    matches = [_CAMERA.match(path.name) for path in paths]
    odd = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if 2 * len(odd) >= len(paths):
        return [UNKNOWN_CAMERA] * len(paths), []
    cameras = [UNKNOWN_CAMERA if match is None else int(match[2]) for match in matches]
    if not odd:
        return cameras, []
    return cameras, [f"{len(odd)} names without a camera, such as {printable(odd[0].name)}; all others have one"]


def _is_distractor(path: Path, key: str, camera: int) -> bool:
    return camera != UNKNOWN_CAMERA and key.isdecimal() and int(key) == 0 and path.name.startswith(f"{key}_")
