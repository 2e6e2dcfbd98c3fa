"""Several data sets as one: no identity and no camera of one is an identity or a camera of another.

Labels are offset, so two sets that both number their people from 0 do not mix. Whether the same people occur in both is
for the owner of the data to know; the same image under two identities is found by content, see `distinct_images`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .dataset import NOBODY, UNKNOWN_CAMERA, Dataset, ImageSource

__all__ = ["join_datasets"]

Item = TypeVar("Item", covariant=True)


class _Numbered(Protocol[Item]):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


class _Chain(Generic[Item]):
    """The items of several sources in a row, none of them copied."""

    def __init__(self, parts: Sequence[_Numbered[Item]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def place(self, index: int) -> tuple[int, int]:
        """Number of the part, and position in it."""
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)

    def item(self, index: int) -> Item:
        part, position = self.place(index)
        return self._parts[part][position]


class _Images(_Chain[Image.Image]):
    def __init__(self, sources: Sequence[ImageSource]) -> None:
        super().__init__(sources)
        self._sources = sources

    def __getitem__(self, index: int) -> Image.Image:
        return self.item(index)

    def stored(self, index: int) -> bytes:
        part, position = self.place(index)
        return self._sources[part].stored(position)

    def decoded(self, index: int, stored: bytes) -> Image.Image:
        part, position = self.place(index)
        return self._sources[part].decoded(position, stored)


@dataclass(frozen=True)
class _Names(Sequence[str]):
    """`LABEL/NAME` of each image, made when one is needed."""

    chain: _Chain[str]
    labels: Sequence[str]

    def __len__(self) -> int:
        return len(self.chain)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if index < 0 or index >= len(self):
            raise IndexError(index)
        return f"{self.labels[self.chain.place(index)[0]]}/{self.chain.item(index)}"


def join_datasets(named: Mapping[str, Dataset]) -> Dataset:
    """One data set of several.

    Args:
        named: Data sets of identities by their labels, which stand before the names of their images; a single one is
            returned as it is. Fixed queries and pairs have no meaning in what is trained on, and are dropped.
    """
    datasets = list(named.values())
    if len(datasets) == 1:
        return datasets[0]
    images: list[ImageSource] = [dataset.images for dataset in datasets]
    return Dataset(
        name=" + ".join(dataset.name for dataset in datasets),
        images=_Images(images),
        identities=_offset([dataset.identities for dataset in datasets], NOBODY),
        cameras=_offset([dataset.cameras for dataset in datasets], UNKNOWN_CAMERA),
        names=_Names(_Chain([dataset.names for dataset in datasets]), list(named)),
        landmarks=_landmarks(datasets),
        notes=tuple(f"{dataset.name}: {note}" for dataset in datasets for note in dataset.notes),
    )


def _landmarks(datasets: Sequence[Dataset]) -> NDArray[np.float32] | None:
    """Those of all images, NaN where a data set has none; None if none has."""
    if all(dataset.landmarks is None for dataset in datasets):
        return None
    unknown = [np.full((len(dataset), 5, 2), np.nan, dtype=np.float32) for dataset in datasets]
    return np.concatenate(
        [none if each.landmarks is None else each.landmarks for each, none in zip(datasets, unknown, strict=True)]
    )


def _offset(labels: Sequence[NDArray[np.int64]], none: int) -> NDArray[np.int64]:
    """Numbers [N_i] of each part, above those of the parts before it; `none` stays."""
    moved, first = [], 0
    for numbers in labels:
        moved.append(np.where(numbers == none, none, numbers + first))
        first += int(numbers.max(initial=-1)) + 1
    return np.concatenate(moved)
