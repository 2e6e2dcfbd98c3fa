"""A face data set in RecordIO, as insightface packs them: images with a class label, and records about identities.

Record 0 and the records about identities have two labels and no image; every other record is an image. Record 0 states
where those begin, but in float32, which is not exact from 2^24, so the content of each record decides. Without such a
record 0, as im2rec writes files, every key of the index is an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..dataset import UNKNOWN_CAMERA, Dataset, encode_identities
from ..image_files import EncodedImages, printable
from ..numbered_names import NumberedNames
from .recordio import Heads, RecordReader

__all__ = ["open_record_dataset"]

_EXACT = 2**24
"""From here float32 does not hold every whole number."""


def open_record_dataset(path: Path) -> Dataset:
    """Read the labels from the header of every record; images are read when they are needed.

    Raises:
        InputError: the index is missing.
        DataError: files are damaged, labels are not whole numbers from 0, or there are fewer than two identities.
    """
    reader = RecordReader(path)
    heads = reader.heads()
    is_image = _is_image(reader.keys, heads)
    keys, labels = reader.keys[is_image], heads.labels[is_image]
    wrong = ~((labels >= 0) & (labels < 2**63) & (labels == np.floor(labels)))
    if wrong.any():
        label = labels[wrong][0]
        what = "a negative label" if label < 0 else "a label that is not a whole number"
        raise DataError(
            f"{path}: record {keys[wrong][0]} has {what}, {label:g}; {np.count_nonzero(wrong)} of {len(keys)} records "
            "have labels other than whole numbers from 0"
        )
    identities = encode_identities(labels.astype(np.int64))
    if not identities.any():
        raise DataError(f"{path}: {min(1, len(keys))} identity among {len(keys)} images; at least 2 are needed")
    return Dataset(
        name=printable(path),
        images=EncodedImages(len(keys), _ReadImage(reader, keys)),
        identities=identities,
        cameras=np.full(len(keys), UNKNOWN_CAMERA, dtype=np.int64),
        names=NumberedNames(printable(path.name), keys),
        notes=_notes(labels),
    )


@dataclass(frozen=True)
class _ReadImage:
    """From an image number to the bytes of the encoded image."""

    reader: RecordReader
    keys: NDArray[np.int64]

    def __call__(self, index: int) -> bytes:
        return self.reader.unpack(int(self.keys[index])).content


def _is_image(keys: NDArray[np.int64], heads: Heads) -> NDArray[np.bool_]:
    """Which records are images: bool [N]."""
    packed_with_identities = bool(keys.size) and keys[0] == 0 and heads.counts[0] == 2 and not heads.has_content[0]
    return heads.has_content if packed_with_identities else np.ones(len(keys), dtype=np.bool_)


def _notes(labels: NDArray[np.float32]) -> tuple[str, ...]:
    inexact = np.count_nonzero(labels >= _EXACT)
    if not inexact:
        return ()
    return (f"{inexact} labels are {_EXACT} or more, where float32 has gaps: identities may be merged",)
