"""`data.cache`: the images of a data set decoded at the network's size, in files that are mapped into memory.

    DIR/NAME-<key>/pixels.npy       uint8 [N, H, W, C], RGB or grey, read without copying
    DIR/NAME-<key>/checksums.npy    uint32 [N], CRC-32 of each image
    DIR/NAME-<key>/index.json       sha256 of the source, its size and time, and what the pixels depend on

The key is of the source's path and of how images are prepared. Where size and time of a source file are those of the
index it is taken to be unchanged; else its content decides. What is out of date or has another size than it should is
decoded again, with a note; an image with a wrong checksum stops the run. A folder appears in one step, whole, under a
lock. Mean-free float32 pixels, as they are usually kept, would be four times as large.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ....converters.records.json_text import parse_json
from ....converters.records.preprocessing import Preprocessing
from ....errors import DataError, InputError
from ...processes.locking import exclusive
from ..dataset import Dataset, ImageSource
from ..decoding import stream_pixels
from ..image_files import UnreadableImageError
from .source_digest import file_state, source_digest

__all__ = ["CachedImages", "DecodedCache"]

Pixels = NDArray[np.uint8]

_PIPELINE = 1
"""Raised when decoding or resizing gives other pixels than before."""
_LOCK_SECONDS = 6 * 3600.0
_BATCH = 256
_FILES = ("pixels.npy", "checksums.npy")


@dataclass(frozen=True)
class CachedImages:
    """Images in a folder of the cache; `unreadable` are the numbers of those that could not be decoded."""

    folder: Path
    version: str
    """SHA-256 of the source that they were decoded from."""
    count: int
    unreadable: frozenset[int]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        return _as_image(self._pixels(index))

    def stored(self, index: int) -> bytes:
        """Shape and pixels, as `ArrayImages` has them."""
        pixels = self._pixels(index)
        return _mark(pixels.shape) + pixels.tobytes()

    def decoded(self, index: int, stored: bytes) -> Image.Image:
        """The image of what `stored` returned."""
        shape = _mapped(self.folder, self.version)[0].shape[1:]
        if not stored.startswith(_mark(shape)):
            return self[index]
        return _as_image(np.frombuffer(stored, dtype=np.uint8, offset=len(_mark(shape))).reshape(shape))

    def _pixels(self, index: int) -> Pixels:
        """One image, compared with its checksum.

        Raises:
            UnreadableImageError: it could not be decoded when the cache was made.
            DataError: the file was damaged since.
        """
        if index in self.unreadable:
            raise UnreadableImageError("it could not be decoded when data.cache was made")
        pixels, checksums = _mapped(self.folder, self.version)
        found: Pixels = pixels[index]
        if _checksum(found) != checksums[index]:
            raise DataError(
                f"data.cache: image {index} in {self.folder / _FILES[0]} is damaged; delete {self.folder}, and it is "
                "made again"
            )
        return found


@dataclass
class DecodedCache:
    """A folder of decoded images, of one size and form."""

    folder: Path
    preprocessing: Preprocessing
    notes: list[str] = field(default_factory=list)
    """What was found and made, for the log."""

    def of(self, dataset: Dataset, source: str) -> Dataset:
        """The data set, with its images read from the cache, which is filled first where it lacks them.

        Args:
            dataset: As it was opened.
            source: What it was opened from.

        Raises:
            DataError: over 1 % of the images cannot be read.
            InputError: the folder cannot be written.
        """
        if not self._can_hold(dataset, source):
            self.notes.append(f"{dataset.name}: lies in memory, and is not kept in data.cache")
            return dataset
        place = self.folder / f"{_safe(dataset.name)}-{self._key(source)}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"data.cache: {self.folder} cannot be made: {error.strerror}") from error
        with exclusive(place.with_suffix(".lock"), timeout=_LOCK_SECONDS, purpose="decoding images"):
            return self._opened(dataset, source, place)

    def _can_hold(self, dataset: Dataset, source: str) -> bool:
        path = Path(source).expanduser()
        return path.exists() or bool(getattr(dataset.images, "paths", ()))

    def _opened(self, dataset: Dataset, source: str, place: Path) -> Dataset:
        index, reason = self._index(dataset, place)
        if index is not None and index["file"] is not None and index["file"] == file_state(dataset, source):
            digest = str(index["sha256"])
        else:
            digest = str(source_digest(dataset, source))
        if index is None or index["sha256"] != digest:
            if place.exists():
                why = reason or "its source has changed"
                self.notes.append(f"{dataset.name}: {place} is decoded again, because {why}")
            index = self._made(dataset, source, digest, place)
            self.notes.append(f"{dataset.name}: {len(dataset)} images decoded into {place}")
        else:
            self.notes.append(f"{dataset.name}: {len(dataset)} decoded images read from {place}")
            if index["file"] != (state := file_state(dataset, source)):  # touched, not changed
                _write_index(place, index | {"file": state})
        images: ImageSource = CachedImages(place, digest, len(dataset), frozenset(index["unreadable"]))
        return replace(dataset, images=images)

    def _index(self, dataset: Dataset, place: Path) -> tuple[dict[str, Any] | None, str]:
        """The index of a folder whose files are whole; else None and what is wrong with it."""
        if not place.is_dir():
            return None, ""
        try:
            index: dict[str, Any] = parse_json((place / "index.json").read_text(encoding="utf-8"))
            shape = (len(dataset), self.preprocessing.height, self.preprocessing.width, self.preprocessing.channels)
            if tuple(index["shape"]) != shape:
                return None, "it holds another number or size of images"
            version = str(index["sha256"])
            list(map(int, index["unreadable"]))
            _mapped.cache_clear()
            pixels, checksums = _mapped(place, version)
            whole = pixels.shape == shape and checksums.shape == shape[:1]
            if not whole or pixels.dtype != np.uint8 or checksums.dtype != np.uint32:
                return None, "its files are damaged"
            return {"file": None, **index}, ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
            return None, "its files are damaged"

    def _made(self, dataset: Dataset, source: str, digest: str, place: Path) -> dict[str, Any]:
        """Decode everything into a folder of another name, and put it into its place."""
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=self.folder))
        try:
            form = self.preprocessing
            shape = (len(dataset), form.height, form.width, form.channels)
            pixels = np.lib.format.open_memmap(made / _FILES[0], mode="w+", dtype=np.uint8, shape=shape)
            checksums = np.zeros(len(dataset), dtype=np.uint32)
            readable = np.zeros(len(dataset), dtype=bool)
            for positions, values in stream_pixels(dataset, form.resize, _BATCH):
                pixels[positions] = values
                checksums[positions] = [_checksum(value) for value in values]
                readable[positions] = True
            pixels.flush()
            del pixels
            np.save(made / _FILES[1], checksums)
            index = {
                "sha256": digest,
                "file": file_state(dataset, source),
                "shape": list(shape),
                "interpolation": form.interpolation,
                "source": source,
                "unreadable": np.flatnonzero(~readable).tolist(),
            }
            _write_index(made, index)
            if place.exists():
                shutil.rmtree(place)
            made.rename(place)
        except OSError as error:
            raise InputError(f"data.cache: {self.folder} cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
        _mapped.cache_clear()
        return index

    def _key(self, source: str) -> str:
        form = self.preprocessing
        path = str(Path(source).expanduser().absolute())
        parts = [_PIPELINE, path, form.height, form.width, form.channels, form.interpolation]
        return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


@lru_cache(maxsize=64)
def _mapped(folder: Path, version: str) -> tuple[NDArray[Any], NDArray[Any]]:  # noqa: ARG001 - part of the key
    """Pixels and checksums, mapped once in each process; a worker maps them itself."""
    pixels, checksums = (np.load(folder / name, mmap_mode="r") for name in _FILES)
    return pixels, checksums


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _checksum(pixels: Pixels) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def _as_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _mark(shape: tuple[int, ...]) -> bytes:
    return f"{tuple(shape)}".encode()


def _safe(name: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in Path(name).name)
    return kept[-60:] or "images"
