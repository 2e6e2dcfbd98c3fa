"""A face data set in RecordIO, as insightface packs them: images with a class label, and records about identities.

Record 0 with flag 2 holds the first identity key and the end key: images are keys 1 up to the first identity key.
Keys are float32 there and not exact from 2^24 on, so they are held to the keys the index has. Without such a record,
as im2rec writes, every key of the index is an image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import DataError
from .dataset import UNKNOWN_CAMERA, Dataset, encode_identities
from .encoded import EncodedImages
from .recordio import RecordReader, unpack_record

__all__ = ["open_record_dataset"]


def open_record_dataset(path: Path) -> Dataset:
    """Read labels from every record's head; images are decoded when they are wanted.

    Raises:
        InputError: the index is missing.
        DataError: damaged files, negative labels, or fewer than two identities.
    """
    reader = RecordReader(path)
    keys = _image_keys(reader)
    labels = [int(unpack_record(reader.read(key)).labels[0]) for key in keys]
    negative = [key for key, label in zip(keys, labels, strict=True) if label < 0]
    if negative:
        raise DataError(f"{path}: record {negative[0]} has a negative label; {len(negative)} records do")
    if len(set(labels)) < 2:
        raise DataError(f"{path}: {len(set(labels))} identity among {len(keys)} images; at least 2 are needed")

    def read(index: int) -> bytes:
        return unpack_record(reader.read(keys[index])).content

    return Dataset(
        name=str(path),
        images=EncodedImages(len(keys), read),
        identities=encode_identities(labels),
        cameras=np.full(len(keys), UNKNOWN_CAMERA, dtype=np.int64),
        names=tuple(f"{path.name}:{key}" for key in keys),
    )


def _image_keys(reader: RecordReader) -> list[int]:
    keys = sorted(reader.offsets)
    if 0 not in reader.offsets:
        return keys
    head = unpack_record(reader.read(0))
    if len(head.labels) != 2 or head.content:
        return keys
    first_identity = int(head.labels[0])
    return [key for key in keys if 0 < key < first_identity and unpack_record(reader.read(key)).content]
