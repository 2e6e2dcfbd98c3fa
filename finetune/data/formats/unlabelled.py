"""Images without labels: any folder of images, or a data set whose labels are not used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ....errors import DataError
from ..dataset import NOBODY, UNKNOWN_CAMERA, Dataset
from ..image_files import FileImages, printable
from .folder_listing import list_images
from .market1501 import is_market1501
from .msmt17 import is_msmt17
from .sources import open_dataset
from .split_folders import has_split_folders

__all__ = ["open_unlabelled"]


def open_unlabelled(spec: str | Path) -> Dataset:
    """The images of `spec`, all of nobody: of a folder all images below it, of a known layout those to train on.

    Raises:
        InputError, DataError: as `open_dataset`, or the folder holds no image.
    """
    root = Path(spec).expanduser()
    if not root.is_dir() or _has_layout(root):
        dataset = open_dataset(spec)
        nobody = np.full(len(dataset), NOBODY, dtype=np.int64)
        return replace(dataset, identities=nobody, is_query=None, pairs=None)
    listing = list_images(root)
    if not listing.paths:
        raise DataError(f"{root}: no images in this folder or below it")
    count = len(listing.paths)
    return Dataset(
        name=printable(root),
        images=FileImages(tuple(listing.paths)),
        identities=np.full(count, NOBODY, dtype=np.int64),
        cameras=np.full(count, UNKNOWN_CAMERA, dtype=np.int64),
        names=tuple(printable(path.relative_to(root)) for path in listing.paths),
        notes=listing.notes(),
    )


def _has_layout(root: Path) -> bool:
    """Whether a folder has parts that are not to be trained on, or images in archives."""
    inside = (root / "train.rec").is_file() or any(root.glob("*.tar"))
    return inside or is_market1501(root) or is_msmt17(root) or has_split_folders(root)
