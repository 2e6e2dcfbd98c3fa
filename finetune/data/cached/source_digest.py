"""By what a data set's images are known on disk: the content of a file, or the names, sizes and times of many."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from ....errors import InputError
from ..dataset import Dataset
from ..image_files import FileImages

__all__ = ["file_state", "source_digest"]

_BLOCK = 1 << 20


def source_digest(dataset: Dataset, source: str | Path) -> str | None:
    """SHA-256 of the one file that holds the images; of names, sizes and times where each image is a file, or several
    files hold them; None for images that lie in memory.

    Args:
        dataset: As it was opened.
        source: What it was opened from.

    Raises:
        InputError: a file cannot be read.
    """
    path = Path(str(source)).expanduser()
    try:
        if isinstance(dataset.images, FileImages):
            return _of_listing(dataset.images.paths)
        if path.is_file():
            return _of_file(path)
        if path.is_dir():
            return _of_listing(sorted(Path(where) / name for where, _, names in os.walk(path) for name in names))
    except OSError as error:
        raise InputError(f"data.cache: {error.filename}: cannot be read: {error.strerror}") from error
    return None


def file_state(dataset: Dataset, source: str | Path) -> list[int] | None:
    """Size in bytes and time of the last change in nanoseconds of the one file that holds all images; else None."""
    path = Path(str(source)).expanduser()
    if isinstance(dataset.images, FileImages) or not path.is_file():
        return None
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _of_listing(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        state = path.stat()
        digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
