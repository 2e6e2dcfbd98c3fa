"""Folders that hold the parts of a data set, told from folders that hold identities.

`train/`, `val/`, `test/`, `query/`, `gallery/` (and their usual other names) are parts, each with one sub-folder per
identity or with files named as Market-1501's. The training side is `train`; the other side is `query` with `gallery`
(of `test/` or beside it), else `test`, else `val`. A part beside a folder of another name is refused, for either could
be meant as an identity. Data sets that need their own lists to be read are refused by their name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from ....errors import DataError, InputError
from ..dataset import Dataset
from .folder_listing import list_images
from .image_folder import open_image_folders
from .market1501 import is_flat_market1501, is_market1501, open_flat_market1501
from .msmt17 import is_msmt17

__all__ = [
    "has_split_folders",
    "nested_dataset",
    "open_split_folders",
    "refuse_several_datasets",
    "refuse_unread_layouts",
]

_PARTS = {
    "train": ("train", "training", "trainset", "train_set", "images_train"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "testset", "test_set", "images_test", "eval"),
    "query": ("query", "queries", "probe", "probes", "test_query"),
    "gallery": ("gallery", "galleries", "test_gallery"),
}
_NAMES = {name: part for part, names in _PARTS.items() for name in names}

_UNREAD = (
    ("VehicleID", ("train_test_split/train_list.txt",), "its lists under train_test_split say who is who"),
    ("CUHK03", ("cuhk03_release", "cuhk-03.mat"), "its images lie in a .mat file"),
    ("CUHK03 as torchreid unpacks it", ("images_labeled", "images_detected"), "its splits lie in .json files"),
    ("MARS", ("bbox_train", "bbox_test"), "its queries lie in .mat files"),
)
"""Layouts that are not read: name, a file or folder of each, and why."""
_CAMERA = re.compile(r"cam(era)?[ _-]?[a-z0-9]{1,3}|visible|thermal|infrared|rgb|ir", re.IGNORECASE)
"""A folder of one camera or kind of camera, as in VIPeR, PRID 2011, SYSU-MM01 and RegDB."""
_WAY_OUT = "write a manifest (path,identity,camera,query), or use a copy in the form of Market-1501"


def refuse_unread_layouts(root: Path) -> None:
    """Refuse a layout that would be misread as one sub-folder per identity.

    Raises:
        InputError: naming the data set and the way out.
    """
    if unread := _unread(root):
        name, reason = unread
        raise InputError(f"{root}: this is {name}, which is not read as it lies: {reason}; {_WAY_OUT}")
    folders = _folders(root)
    cameras = [path for path in folders if _CAMERA.fullmatch(path.name)]
    if len(cameras) > 1 and not any(list_images(path).paths for path in folders if path not in cameras):
        named = f"'{cameras[0].name}' and '{cameras[1].name}'"
        raise InputError(f"{root}: its folders are named as cameras ({named}), not as identities; {_WAY_OUT}")


def refuse_several_datasets(root: Path) -> None:
    """Refuse a folder of which a sub-folder is a data set, and no identity.

    Raises:
        InputError: naming it.
    """
    for folder in _folders(root):
        if _is_dataset(folder) or nested_dataset(folder):
            raise InputError(f"{root}: '{folder.name}' in it is a data set, and no identity; give {folder}")


def has_split_folders(root: Path) -> bool:
    """Whether a sub-folder of `root` has the name of a part."""
    return bool(_parts(root))


def open_split_folders(root: Path, subset: Literal["train", "test"]) -> Dataset:
    """The training part, or the one to evaluate on.

    Raises:
        InputError: there is no such part.
        DataError: folders of identities lie beside the parts, or a part has no identities.
    """
    parts = _parts(root)
    beside = [path.name for path in _folders(root) if path not in parts.values() and list_images(path).paths]
    if beside:
        part = next(iter(parts.values())).name
        raise DataError(
            f"{root}: the folder '{part}' is named as a part of a data set, and '{beside[0]}' beside it is not; move "
            f"the parts into a folder of their own, or rename '{part}' if it is an identity"
        )
    if subset == "train":
        if "train" not in parts:
            raise InputError(f"{root}: holds {_named(parts)}, and no train/ to train on; give the folder that is meant")
        return _open_part(parts["train"])
    if "test" in parts and (inner := _parts(parts["test"])).keys() & {"query", "gallery"}:
        parts = inner
    if parts.keys() & {"query", "gallery"}:
        if not {"query", "gallery"} <= parts.keys():
            raise InputError(f"{root}: holds {_named(parts)}; retrieval needs both query/ and gallery/")
        sides = {parts["query"]: True, parts["gallery"]: False}
        listings = [(list_images(folder), is_query) for folder, is_query in sides.items()]
        if all(is_flat_market1501(listing) for listing, _ in listings):
            return open_flat_market1501(root, listings)
        return open_image_folders(root, sides)
    chosen = parts.get("test") or parts.get("val")
    if chosen is None:
        raise InputError(f"{root}: holds {_named(parts)}, and no test/ or val/ to evaluate on; give the folder meant")
    return _open_part(chosen)


def nested_dataset(root: Path) -> Path | None:
    """The folder within `root` that a data set lies in alone, as torchreid nests them, up to three levels deep."""
    for _ in range(3):
        folders = _folders(root)
        if len(folders) != 1:
            return None
        root = folders[0]
        if _is_dataset(root) or _part_folders(root):
            return root
    return None


def _is_dataset(root: Path) -> bool:
    """Whether a folder is one by its layout, and not by the names of sub-folders alone, which identities may have."""
    laid_out = is_market1501(root) or is_msmt17(root) or (root / "train.rec").is_file() or _unread(root) is not None
    return laid_out or any(map(_folders, _part_folders(root)))


def _unread(root: Path) -> tuple[str, str] | None:
    """Name of the layout that is not read, and why; None for another one."""
    return next(((name, why) for name, marks, why in _UNREAD if any((root / mark).exists() for mark in marks)), None)


def _open_part(folder: Path) -> Dataset:
    listing = list_images(folder)
    if is_flat_market1501(listing):
        return open_flat_market1501(folder, [(listing, False)])
    return open_image_folders(folder, {folder: False})


def _parts(root: Path) -> dict[str, Path]:
    """The sub-folders that are parts, by part.

    Raises:
        DataError: two name the same part.
    """
    parts: dict[str, Path] = {}
    for path in _part_folders(root):
        part = _NAMES[path.name.lower()]
        if part in parts:
            raise DataError(f"{root}: '{parts[part].name}' and '{path.name}' both name the {part} part; keep one")
        parts[part] = path
    return parts


def _part_folders(root: Path) -> list[Path]:
    return [path for path in _folders(root) if path.name.lower() in _NAMES]


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:  # asks the disk for no file's kind, and folders may hold millions
        return sorted(
            Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__"))
        )


def _named(parts: dict[str, Path]) -> str:
    return ", ".join(f"{path.name}/" for path in parts.values())
