"""What a tensor says of its external data: location, offset, length and checksum, and the bytes that its shape needs.

Only the keys of the specification are known. The location alone says where data lies: `basepath` is ONNX's own note for
writing and never followed.

Sources: ONNX, docs/ExternalData.md (keys; the checksum is SHA-1 of the data file); CVE-2026-34445 (unknown keys, absurd
numbers).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import onnx

from ...errors import InputError
from .data_files import check_location
from .element_types import bits_of, name_of
from .stored_tensors import StoredTensor

__all__ = ["Entries", "read_entries", "size_of"]

_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
_NUMBER = re.compile(r"[0-9]{1,19}")
_SHA1 = re.compile(r"[0-9a-fA-F]{40}")
_LARGEST = (1 << 63) - 1
_DATA_FIELDS = (
    "raw_data",
    "float_data",
    "double_data",
    "int32_data",
    "int64_data",
    "uint64_data",
    "string_data",
)


@dataclass(frozen=True)
class Entries:
    """The entries of one tensor; `length` is None and `checksum` "" where none is stated."""

    location: str
    offset: int
    length: int | None
    checksum: str


def read_entries(stored: StoredTensor) -> Entries:
    """What a tensor says of its data, in the only form that two readers cannot understand differently.

    Raises:
        InputError: an entry is unknown, missing, doubled or malformed, or the location is none that a model may name.
    """
    tensor, label = stored.tensor, stored.label
    pairs = [(entry.key, entry.value) for entry in tensor.external_data]
    for text in (tensor.name, *(text for pair in pairs for text in pair)):
        if isinstance(text, bytes):  # what protobuf returns when it cannot decode a string
            raise InputError(f"{label}: {text!r} is not UTF-8 text; the file is damaged, fetch it again")
    found = dict(pairs)
    if set(found) - _KEYS or "location" not in found or len(found) != len(pairs):
        listed = ", ".join(str(key)[:40] for key, _ in pairs[:8]) or "nothing"
        raise InputError(
            f"{label}: external data needs one location, and may have an offset, length and checksum; got {listed}; "
            "the file is damaged, fetch it again"
        )
    for key, value in found.items():
        is_number = key in ("offset", "length")
        if (
            (is_number and not (_NUMBER.fullmatch(value) and int(value) <= _LARGEST))
            or (key == "checksum" and not _SHA1.fullmatch(value))
            or "\0" in value
        ):
            raise InputError(
                f"{label}: external data {key} is {value[:80]!r}, which is not a "
                f"{'number of bytes' if is_number else 'SHA-1 sum' if key == 'checksum' else 'path'}; the file is "
                "damaged, fetch it again"
            )
    inside = [name for name in _DATA_FIELDS if len(getattr(tensor, name))]
    if inside:
        raise InputError(f"{label}: its data is in another file and in {inside[0]} too; the file is damaged")
    check_location(found["location"], label)
    length = int(found["length"]) if "length" in found else None
    return Entries(found["location"], int(found.get("offset", "0")), length, found.get("checksum", "").lower())


def size_of(stored: StoredTensor, entries: Entries) -> int:
    """The bytes that the shape of a tensor needs.

    Raises:
        InputError: its shape or element type is none that a file can hold, or another length is stated.
    """
    tensor, label = stored.tensor, stored.label
    if any(dim < 0 for dim in tensor.dims):
        raise InputError(f"{label}: negative dimension in {list(tensor.dims)}; export the model again")
    try:
        name = name_of(tensor.data_type)
    except ValueError:
        raise InputError(f"{label}: unknown data type {tensor.data_type}; export the model again") from None
    if tensor.data_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        raise InputError(f"{label}: {name} cannot be external data; the file is damaged, export it again")
    size: int = (math.prod(tensor.dims) * bits_of(tensor.data_type) + 7) // 8
    if size > _LARGEST:
        raise InputError(f"{label}: its shape is absurdly large ({list(tensor.dims)[:8]}); the file is damaged")
    if entries.length is not None and entries.length != size:
        raise InputError(
            f"{label}: shape {list(tensor.dims)[:8]} needs {size} bytes, the file declares {entries.length}; export it "
            "again"
        )
    return size
