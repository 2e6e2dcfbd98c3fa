"""`data.subset`: a file of the positions of the images that are used, such as the subset of MS1MV2 that AdaFace names.

Positions count from 0 in the order in which the data set is read. That of an image folder is another one than that of
the records it was unpacked from, so a file made for one picks other images of the other.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError, InputError
from ..dataset import NOBODY, Dataset

__all__ = ["at_positions", "read_positions", "renumbered"]


def read_positions(path: Path) -> NDArray[np.int64]:
    """The whole numbers of a text, separated by commas, spaces or line ends: int64 [n].

    Raises:
        InputError: there is no such file, or it cannot be read.
        DataError: something in it is not a whole number from 0, or it is empty.
    """
    try:
        words = path.read_text(encoding="utf-8-sig").replace(",", " ").split()
    except OSError as error:
        raise InputError(f"data.subset: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"data.subset: {path} is not a text; give positions separated by commas or lines") from error
    wrong = next((word for word in words if not (word.isascii() and word.isdigit() and len(word) < 19)), None)
    if wrong is not None:
        raise DataError(f"data.subset: {path}: '{wrong[:40]}' is not a position; give whole numbers from 0")
    if not words:
        raise DataError(f"data.subset: {path} names no position")
    return np.array(words, dtype=np.int64)


def at_positions(dataset: Dataset, path: Path) -> Dataset:
    """The images at the positions that a file names, in the order of the data set, with a note of how many are kept.

    Raises:
        InputError, DataError: as `read_positions`, or a position lies beyond the end.
    """
    named = read_positions(path)
    if named.max() >= len(dataset):
        beyond = int(np.count_nonzero(named >= len(dataset)))
        raise DataError(
            f"data.subset: {path}: {beyond} of {len(named)} positions, such as {named.max()}, lie beyond the "
            f"{len(dataset)} images of {dataset.name}, which count from 0; the file may belong to another data set"
        )
    chosen = np.unique(named)
    again = len(named) - len(chosen)
    note = f"{len(chosen)} of {len(dataset)} images are used, those that {path} names"
    note += f"; {again} of its positions stand there again" if again else ""
    return replace(renumbered(dataset.subset(chosen), dataset.identities[chosen]), notes=(*dataset.notes, note))


def renumbered(dataset: Dataset, before: NDArray[np.int64]) -> Dataset:
    """The data set with identities 0, 1, ... in ascending order of the labels int64 [N] that its images had before."""
    identities = np.full(len(before), NOBODY, dtype=np.int64)
    known = before != NOBODY
    identities[known] = np.unique(before[known], return_inverse=True)[1]
    return replace(dataset, identities=identities)
