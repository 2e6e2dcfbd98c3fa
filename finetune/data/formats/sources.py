"""A data set from the one text that a command line or a configuration gives: `open_dataset("...")`.

    synthetic-people:identities=150,images=12,seed=1,cameras=7,views=6,size=128x64,shift=1.0
    synthetic-faces:identities=50,images=10,seed=2,size=64x64,cameras=7
    FOLDER        Market-1501 and the sets in its form, MSMT17, train.rec, train/ val/ test/, *.tar shards, else one
                  sub-folder per identity; or a folder that holds one of these alone
    FILE.csv, FILE.jsonl    a manifest
    FILE.rec, FILE.tar      RecordIO with its .idx, a WebDataset shard
    FILE.bin                verification pairs of insightface
    FILE.txt, FILE.csv      verification pairs as of LFW, or a,b,same; FILE.txt:root=FOLDER says where the images lie

Which layout a folder has is decided by what lies in it, in the order above; each format is read by a module of this
room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from ....errors import DataError, InputError, nearest
from ..dataset import Dataset
from ..synthetic.synthetic_faces import synthetic_faces
from ..synthetic.synthetic_people import synthetic_people
from .folder_listing import list_images
from .image_folder import open_image_folder
from .manifest import open_manifest
from .market1501 import has_flat_names, is_flat_market1501, is_market1501, open_flat_market1501, open_market1501
from .msmt17 import is_msmt17, open_msmt17
from .pair_bin import open_pair_bin
from .pair_lists import is_pair_csv, open_pair_csv, open_pairs_txt
from .record_dataset import open_record_dataset
from .split_folders import (
    has_split_folders,
    nested_dataset,
    open_split_folders,
    refuse_several_datasets,
    refuse_unread_layouts,
)
from .tar_shards import open_tar_shards

__all__ = ["Subset", "drawn_as", "open_dataset"]

Subset = Literal["train", "test"]


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


_PEOPLE: Mapping[str, Callable[[str], Any]] = {
    "identities": int,
    "images": int,
    "seed": int,
    "cameras": int,
    "views": int,
    "size": _size,
    "shift": float,
}
_MOST_PIXELS = 10**10
"""Of one drawn data set, three bytes each: more is held by no machine this is meant for."""
_FACES = {key: _PEOPLE[key] for key in ("identities", "images", "seed", "size", "cameras")}

_FILES: Mapping[str, Callable[[Path], Dataset]] = {
    ".bin": open_pair_bin,
    ".csv": open_manifest,
    ".jsonl": open_manifest,
    ".rec": open_record_dataset,
}

_GENERATORS: Mapping[str, tuple[Callable[..., Dataset], Mapping[str, Callable[[str], Any]]]] = {
    "synthetic-people": (synthetic_people, _PEOPLE),
    "synthetic-faces": (synthetic_faces, _FACES),
}


def open_dataset(spec: str | Path, subset: Subset = "train") -> Dataset:
    """Open a data set; no image is decoded.

    Args:
        spec: A folder, a file, or `GENERATOR:key=value,...`, see the head of this module.
        subset: The side of layouts that have fixed ones (Market-1501, MSMT17); others ignore it.

    Raises:
        InputError: nothing of that name, or a generator option that does not exist or parse.
        DataError: the layout is wrong, or there are fewer than two identities.

    Examples:
        >>> dataset = rtool.finetune.open_dataset("synthetic-people:identities=4,images=8,seed=2,size=16x8")
        >>> len(dataset), len(set(dataset.identities.tolist()))
        (32, 4)
    """
    name, _, options = str(spec).partition(":")
    if name in _GENERATORS:
        generate, types = _GENERATORS[name]
        return generate(**_parse_options(str(spec), options, types))
    text, _, named = str(spec).partition(":root=")
    root = Path(text).expanduser()
    if named and root.is_file():
        return _open_pair_list(root, Path(named).expanduser())
    if not root.exists():
        raise InputError(
            f"{spec}: no such file or folder, and not a generator "
            f"(known: {', '.join(sorted(_GENERATORS))}:key=value,...)"
        )
    return _open_folder(root, subset) if root.is_dir() else _open_file(root)


def drawn_as(spec: str | Path) -> tuple[str, ...] | None:
    """Name and sorted options of the generator that a text names; None for a folder or file.

    Drawn pictures have the same names whatever their seed, so this tells one data set from another.
    """
    name, _, options = str(spec).partition(":")
    return (name, *sorted(filter(None, options.split(",")))) if name in _GENERATORS else None


def _open_folder(root: Path, subset: Subset) -> Dataset:
    if is_market1501(root):
        return open_market1501(root, subset)
    if is_msmt17(root):
        return open_msmt17(root, subset)
    if (root / "train.rec").is_file():
        return open_record_dataset(root / "train.rec")
    refuse_unread_layouts(root)
    if has_split_folders(root):
        return open_split_folders(root, subset)
    if nested := nested_dataset(root):
        return _open_folder(nested, subset)
    refuse_several_datasets(root)
    shards = sorted(root.glob("*.tar"))
    if shards and list_images(root).paths:
        raise DataError(
            f"{root}: holds images as well as {shards[0].name}; give {shards[0]} to read the archive, or move it away"
        )
    if shards:
        return open_tar_shards(shards)
    if has_flat_names(root) and is_flat_market1501(listing := list_images(root)):
        return open_flat_market1501(root, [(listing, False)])
    return open_image_folder(root)


def _open_pair_list(path: Path, root: Path | None) -> Dataset:
    if path.suffix == ".txt":
        return open_pairs_txt(path, root)
    if path.suffix == ".csv" and is_pair_csv(path):
        return open_pair_csv(path, root)
    raise InputError(f"{path}: root= is for lists of pairs (.txt as of LFW, or .csv with a,b,same)")


def _open_file(path: Path) -> Dataset:
    if path.suffix == ".tar":
        return open_tar_shards([path])
    if path.suffix == ".txt" or (path.suffix == ".csv" and is_pair_csv(path)):
        return _open_pair_list(path, None)
    if path.suffix not in _FILES:
        raise InputError(
            f"{path}: expected a folder, or a file ending in {', '.join(sorted([*_FILES, '.tar', '.txt']))}"
        )
    return _FILES[path.suffix](path)


def _parse_options(spec: str, text: str, types: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in types:
            raise InputError(f"{spec}: unknown option '{key}'; {nearest(key, types)}")
        try:
            options[key] = types[key](value)
        except ValueError as error:
            expected = "HEIGHTxWIDTH" if key == "size" else types[key].__name__
            raise InputError(f"{spec}: {key} must be {expected}, got '{value}'") from error
        if key in ("seed", "cameras") and options[key] < 0:
            raise InputError(f"{spec}: {key} must be 0 or more, got {value}")
    height, width = options.get("size", (1, 1))
    drawn = options.get("identities", 1) * options.get("images", 1) * height * width
    if drawn > _MOST_PIXELS:
        raise InputError(f"{spec}: would draw {drawn} pixels, at most {_MOST_PIXELS}; ask for fewer or smaller images")
    return options
