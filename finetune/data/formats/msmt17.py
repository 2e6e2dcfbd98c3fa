"""MSMT17: `list_{train,val,query,gallery}.txt` with lines `path identity`; the camera is the third `_` field.

Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018: 32 621 training images,
11 659 queries, 82 161 gallery images, 15 cameras. Images lie in `train/` and `test/`, or in `mask_train_v2/` and
`mask_test_v2/` of the second version. The train and the val list together are the training images, as in published
results; a copy without a val list is read with a note. A few lines of another form are left out and reported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ....errors import InputError
from ..dataset import Dataset, encode_identities
from ..identity_keys import few_odd_notes, too_few_identities
from ..image_files import FileImages, printable

__all__ = ["is_msmt17", "open_msmt17"]

_MOST_DIGITS = 10
_ODD = "are listed otherwise than '0000/0000_000_01_0303morning_0015_0.jpg 0', with path, camera and identity"
_FOLDERS = {"train": ("train", "mask_train_v2"), "test": ("test", "mask_test_v2")}


def is_msmt17(root: Path) -> bool:
    """Whether `root` has a `list_train.txt`."""
    return (root / "list_train.txt").is_file()


def open_msmt17(root: Path, subset: str = "train") -> Dataset:
    """The training images, or queries and gallery together, with `is_query` set.

    Raises:
        InputError: a list or folder is missing.
        DataError: most lines of a list have another form, or there are fewer than two identities.
    """
    folder = next((root / name for name in _FOLDERS[subset] if (root / name).is_dir()), None)
    if folder is None:
        raise InputError(f"{root}: expected the images in {' or '.join(_FOLDERS[subset])}, found neither")
    lists = ["list_train.txt", "list_val.txt"] if subset == "train" else ["list_query.txt", "list_gallery.txt"]
    notes: list[str] = []
    if subset == "train" and not (root / "list_val.txt").is_file():
        lists = lists[:1]
        notes.append("no list_val.txt: its images are not trained on, as they are in published results")
    paths: list[Path] = []
    identities: list[int] = []
    cameras: list[int] = []
    is_query: list[bool] = []
    for name in lists:
        lines = _lines(root / name)
        found = [_entry(line) for line in lines]
        odd = [printable(line) for line, entry in zip(lines, found, strict=True) if entry is None]
        notes += few_odd_notes(root / name, odd, len(lines), _ODD)
        entries = [entry for entry in found if entry is not None]
        paths += [folder / path for path, _, _ in entries]
        identities += [identity for _, identity, _ in entries]
        cameras += [camera for _, _, camera in entries]
        is_query += [name == "list_query.txt"] * len(entries)
    if len(set(identities)) < 2:
        raise too_few_identities(root, f"{len(set(identities))} identities", notes)
    return Dataset(
        name=f"{printable(root)} ({subset})",
        images=FileImages(tuple(paths)),
        identities=encode_identities(identities),
        cameras=np.array(cameras, dtype=np.int64),
        names=tuple(printable(path.relative_to(root)) for path in paths),
        is_query=np.array(is_query) if subset == "test" else None,
        notes=tuple(notes),
    )


def _entry(line: str) -> tuple[str, int, int] | None:
    """Path, identity and camera of a line, None if it has another form."""
    path, _, identity = line.rpartition(" ")
    fields = Path(path).name.split("_")
    if not _is_number(identity) or len(fields) < 3 or not _is_number(fields[2]):
        return None
    return path, int(identity), int(fields[2])


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    text = path.read_text(encoding="utf-8", errors="surrogateescape")  # as Python reads the names of files
    return [line.strip() for line in text.split("\n") if line.strip()]


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < _MOST_DIGITS
