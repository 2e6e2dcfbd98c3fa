"""WebDataset shards: uncompressed tar files whose members share a key, `KEY.jpg` with `KEY.cls` or `KEY.json`.

`.cls` holds the identity; `.json` an object with `identity` and optionally `camera`; a few images without either are
left out. A key ends at the first dot of the name, and may have several images, such as `KEY.front.png` and
`KEY.side.png`. Members are indexed once and read by
position, so that identities can be sampled; the webdataset package, which streams, is not used.
"""

from __future__ import annotations

import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ....converters.records.json_text import parse_json
from ....errors import DataError, InputError
from ..dataset import MOST_CAMERA, UNKNOWN_CAMERA, Dataset, encode_identities
from ..identity_keys import few_odd_notes, identity_key, left_out_notes, too_few_identities
from ..image_files import EncodedImages, printable
from ..image_formats import image_suffixes
from .folder_listing import is_stray
from .positional_files import PositionalFiles

__all__ = ["open_tar_shards"]


class _Member(NamedTuple):
    shard: int
    offset: int
    size: int


@dataclass(frozen=True)
class _ReadMember:
    """From an image number to the bytes of the encoded image."""

    files: PositionalFiles
    images: list[_Member]

    def __call__(self, index: int) -> bytes:
        return _read(self.files, self.images[index])


def open_tar_shards(shards: Sequence[Path]) -> Dataset:
    """Index `shards` and read their labels.

    Raises:
        InputError: there is no shard.
        DataError: a shard is damaged or compressed, a label is missing, or there are fewer than two identities.
    """
    if not shards:
        raise InputError("no .tar shards were given")
    files = PositionalFiles(shards)
    images: list[_Member] = []
    labels: list[dict[str, Any]] = []
    names: list[str] = []
    others: list[str] = []
    unread: list[str] = []
    suffixes = image_suffixes()
    for number, path in enumerate(shards):
        for key, members in _members(path, number, unread).items():
            found = {suffix: m for suffix, m in members.items() if f".{suffix.rpartition('.')[2]}" in suffixes}
            others += [printable(f"{path.name}:{key}{suffix}") for suffix in members.keys() - found - {".cls", ".json"}]
            labelled = found and members.keys() & {".cls", ".json"}
            label = _label(f"{path}: {key}", files, members) if labelled else {}
            for suffix, image in found.items():
                images.append(image)
                labels.append(label)
                names.append(printable(f"{path.name}:{key}{suffix if len(found) > 1 else ''}"))
    odd = [name for name, label in zip(names, labels, strict=True) if not label]
    notes = few_odd_notes(shards[0], odd, len(images), "have neither KEY.cls nor KEY.json beside them")
    keys = [label.get("identity") for label in labels]
    notes += left_out_notes(keys, names)
    if unread:
        notes += (f"{len(unread)} links and hidden files left out, such as {min(unread)}",)
    if others:
        notes += (f"{len(others)} members that are not images or labels left out, such as {min(others)}",)
    chosen = [number for number, key in enumerate(keys) if isinstance(key, str)]
    images, labels = [images[n] for n in chosen], [labels[n] for n in chosen]
    names = [names[n] for n in chosen]
    identities = encode_identities([label["identity"] for label in labels])
    if not images or identities.max() == 0:
        raise too_few_identities(shards[0], f"{len(images)} images of {min(1, len(images))} identity", notes)
    return Dataset(
        name=printable(shards[0].parent if len(shards) > 1 else shards[0]),
        images=EncodedImages(len(images), _ReadMember(files, images)),
        identities=identities,
        cameras=np.array([int(label.get("camera", UNKNOWN_CAMERA)) for label in labels], dtype=np.int64),
        names=tuple(names),
        notes=notes,
    )


def _members(path: Path, number: int, unread: list[str]) -> dict[str, dict[str, _Member]]:
    """The files of a shard by key and suffix; links, and files that file managers leave, go to `unread`."""
    found: dict[str, dict[str, _Member]] = defaultdict(dict)
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                if not entry.isdir() and (
                    not entry.isfile()
                    or any(is_stray(part) for part in entry.name.split("/") if part not in (".", ".."))
                ):
                    unread.append(printable(f"{path.name}:{entry.name}"))
                elif entry.isfile():
                    folder, _, name = entry.name.rpartition("/")
                    key, _, suffix = name.partition(".")
                    members = found[f"{folder}/{key}" if folder else key]
                    if f".{suffix.lower()}" in members:
                        raise DataError(
                            f"{path}: '{printable(entry.name)}' occurs twice; each key may have one file of each suffix"
                        )
                    members[f".{suffix.lower()}"] = _Member(number, entry.offset_data, entry.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: cannot be read as an uncompressed tar file: {error}") from error
    return found


def _label(place: str, files: PositionalFiles, members: dict[str, _Member]) -> dict[str, Any]:
    try:
        if ".cls" in members:
            return {"identity": identity_key(_read(files, members[".cls"]).decode())}
        label = parse_json(_read(files, members[".json"]))
        return {"identity": identity_key(label["identity"]), "camera": _camera(label.get("camera", UNKNOWN_CAMERA))}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{place}: no label; expected KEY.cls with text in UTF-8, or KEY.json with an identity and perhaps a camera"
        ) from error
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error}") from error


def _camera(value: Any) -> int:
    number = int(value)
    if number != float(value) or not UNKNOWN_CAMERA <= number <= MOST_CAMERA:
        raise ValueError(f"not a camera number: {value}")
    return number


def _read(files: PositionalFiles, member: _Member) -> bytes:
    return files.read(member.shard, member.size, member.offset)
