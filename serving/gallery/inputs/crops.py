"""What a gallery is made of: N crops of T tracks, in one order whatever order they came in.

A track is what a tracker followed in one camera. Two tracks of one name in two cameras are two tracks. Crops are sorted
by track, frame and name; tracks by their label, so that results do not depend on the order of the input.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ....errors import DataError
from ....finetune.data.dataset import Dataset, ImageSource

__all__ = ["Crop", "Crops", "Track", "make_crops", "natural"]

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Track:
    """One track in one camera."""

    label: str
    """Unique: the name, and before it the camera where several tracks have the name."""
    name: str
    camera: str
    """Empty where it is unknown; all such tracks count as of one camera."""


@dataclass(frozen=True)
class Crop:
    """One crop as a reader found it; `image` is its number in the source of images."""

    image: int
    name: str
    track: str
    camera: str = ""
    frame: int | None = None
    confidence: float = float("nan")
    at_edge: bool = False
    path: Path | None = None
    truth: str | None = None


@dataclass(frozen=True)
class Crops:
    """N crops of T tracks; arrays have length N, in the order of track, frame and name."""

    name: str
    images: ImageSource
    names: tuple[str, ...]
    paths: tuple[Path | None, ...]
    """The file of each crop; None for one that has none."""
    track: Integers
    """Number of the track, int64 [N]."""
    frame: Integers
    """int64 [N], the place within the track where frames are unknown."""
    confidence: NDArray[np.float64]
    """Of the detector, 0 to 1; 1 where it is unknown."""
    at_edge: NDArray[np.bool_]
    """Whether the box touches the edge of its frame."""
    tracks: tuple[Track, ...]
    timed: bool
    """Whether frame numbers are times of the camera, by which tracks can overlap."""
    notes: tuple[str, ...] = ()
    truth: tuple[str | None, ...] | None = None
    """Who each track is, None of one that is unknown; it serves to measure only."""
    folder: Path | None = None
    """Where the crops lie; a gallery is not written into it."""

    def __len__(self) -> int:
        return len(self.track)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras in natural order."""
        return tuple(sorted({track.camera for track in self.tracks}, key=natural))

    @property
    def camera_numbers(self) -> Integers:
        """Camera of each track, int64 [T]: the numbers that cameras are called by, else their place in the order."""
        names = self.cameras
        numbers = dict(zip(names, _numbers(names), strict=True))
        return np.array([numbers[track.camera] for track in self.tracks], dtype=np.int64)

    def spans(self) -> tuple[Integers, Integers]:
        """First and last frame of each track, two int64 [T]."""
        first = np.full(len(self.tracks), np.iinfo(np.int64).max)
        last = np.full(len(self.tracks), -1, dtype=np.int64)
        np.minimum.at(first, self.track, self.frame)
        np.maximum.at(last, self.track, self.frame)
        return first, last

    def rows_of(self, track: int) -> Integers:
        """Numbers of the crops of a track, in time."""
        start, end = np.searchsorted(self.track, [track, track + 1])
        return np.arange(start, end)

    def subset(self, rows: Integers) -> Crops:
        """The crops at ascending `rows`, without tracks that lose all of theirs."""
        kept, track = np.unique(self.track[rows], return_inverse=True)
        return replace(
            self,
            images=self.dataset(rows).images,
            names=tuple(self.names[row] for row in rows),
            paths=tuple(self.paths[row] for row in rows),
            track=track.astype(np.int64),
            frame=self.frame[rows],
            confidence=self.confidence[rows],
            at_edge=self.at_edge[rows],
            tracks=tuple(self.tracks[number] for number in kept),
            truth=None if self.truth is None else tuple(self.truth[number] for number in kept),
        )

    def reordered(self, order: Integers) -> Crops:
        """The crops in another order, with the same tracks."""
        return replace(
            self,
            images=_Ordered(self.images, tuple(order.tolist())),
            names=tuple(self.names[row] for row in order),
            paths=tuple(self.paths[row] for row in order),
            track=self.track[order],
            frame=self.frame[order],
            confidence=self.confidence[order],
            at_edge=self.at_edge[order],
        )

    def dataset(self, rows: Integers | None = None) -> Dataset:
        """The crops as a data set whose identities are the tracks, to decode and embed."""
        whole = Dataset(self.name, self.images, self.track, self.camera_numbers[self.track], self.names)
        return whole if rows is None else whole.subset(rows)


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts c2 before c10, by the length of numbers without zeros in front: they may have any length."""
    parts = re.split(r"([0-9]+)", text)
    digits = [part.lstrip("0") for part in parts]
    return [(0, len(digits[n]), digits[n]) if n % 2 else (1, 0, part) for n, part in enumerate(parts)]


def make_crops(
    name: str,
    images: ImageSource,
    found: Sequence[Crop],
    *,
    timed: bool,
    notes: Sequence[str] = (),
    folder: Path | None = None,
) -> Crops:
    """Sort crops and name their tracks.

    Raises:
        DataError: there are none, one track is of two people, or one file is listed twice.
    """
    if not found:
        raise DataError(f"{name}: no crops; expected TRACK/image.jpg, CAMERA/TRACK/image.jpg or a manifest")
    keys = sorted({(crop.track, crop.camera) for crop in found}, key=lambda key: (natural(key[0]), natural(key[1])))
    names = [track for track, _ in keys]
    repeated = {track for track, count in Counter(names).items() if count > 1}
    labels = [f"{camera}/{track}" if track in repeated else track for track, camera in keys]
    order = sorted(range(len(keys)), key=lambda number: (natural(labels[number]), labels[number]))
    tracks = tuple(Track(labels[number], *keys[number]) for number in order)
    place = {(track.name, track.camera): number for number, track in enumerate(tracks)}
    if len({track.label for track in tracks}) < len(tracks):
        raise DataError(f"{name}: two tracks would have one name; rename one of them")
    crops = sorted(
        found, key=lambda crop: (place[crop.track, crop.camera], crop.frame or 0, natural(crop.name), crop.name)
    )
    track = np.array([place[crop.track, crop.camera] for crop in crops], dtype=np.int64)
    frames_known = all(crop.frame is not None for crop in crops)
    starts = np.searchsorted(track, np.arange(len(tracks)))
    frame = np.array([crop.frame for crop in crops]) if frames_known else np.arange(len(crops)) - starts[track]
    confidence = np.array([crop.confidence for crop in crops], dtype=np.float64)
    return Crops(
        name=name,
        images=_Ordered(images, tuple(crop.image for crop in crops)),
        names=tuple(crop.name for crop in crops),
        paths=tuple(crop.path for crop in crops),
        track=track,
        frame=frame.astype(np.int64),
        confidence=np.where(np.isfinite(confidence), np.clip(confidence, 0, 1), 1.0),
        at_edge=np.array([crop.at_edge for crop in crops]),
        tracks=tracks,
        timed=timed and frames_known,
        notes=tuple(notes),
        truth=_truth(name, crops, track, tracks),
        folder=folder,
    )


def _truth(name: str, crops: Sequence[Crop], track: Integers, tracks: Sequence[Track]) -> tuple[str, ...] | None:
    """Who each track is; None unless every crop says so."""
    people: dict[int, str] = {}
    for crop, number in zip(crops, track.tolist(), strict=True):
        if crop.truth is None:
            return None
        if people.setdefault(number, crop.truth) != crop.truth:
            raise DataError(f"{name}: track {tracks[number].label} is of {people[number]} and of {crop.truth}")
    return tuple(people[number] for number in range(len(tracks)))


def _numbers(names: Sequence[str]) -> list[int]:
    found = [re.fullmatch(r"\D*?0*(\d{1,9})", name) for name in names]
    numbers = [int(match[1]) for match in found if match is not None]
    return numbers if len(set(numbers)) == len(names) else list(range(len(names)))


@dataclass(frozen=True)
class _Ordered:
    """The images of another source in another order."""

    source: ImageSource
    order: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Image.Image:
        return self.source[self.order[index]]

    def stored(self, index: int) -> bytes:
        return self.source.stored(self.order[index])

    def decoded(self, index: int, stored: bytes) -> Image.Image:
        return self.source.decoded(self.order[index], stored)
