"""MXNet RecordIO files `.rec` with their index `.idx`, read and written without mxnet.

A record is u32 magic 0xced7230a, u32 (part << 29 | length), the payload, zeros up to a multiple of 4. Where the magic
occurs in a payload at a multiple of 4, it is cut out and the payload split there: part 0 is a whole record, 1 the
first, 2 a middle and 3 the last piece. The index has lines `key TAB offset`. Checked against bytes written by mxnet
1.9.1.

An image payload starts with `<IfQQ`: flag, label, id, id2; with flag > 0 that many float32 labels follow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError, InputError
from .positional_files import PositionalFiles

__all__ = ["Heads", "Record", "RecordReader", "pack_record", "unpack_record", "write_records"]

_MAGIC = struct.pack("<I", 0xCED7230A)
_HEADER = struct.Struct("<IfQQ")
_LENGTH_BITS = 29
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)

_HEAD = np.dtype(
    [("magic", "<u4"), ("word", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("ids", "<u8", 2), ("first", "<f4")]
)
"""What `heads` reads of each record; `first` is the first of several labels."""
_HEADS_AT_ONCE = 1 << 17


class Record(NamedTuple):
    """Labels (float32 on disk), id, and the encoded image."""

    labels: tuple[float, ...]
    id: int
    content: bytes


class Heads(NamedTuple):
    """The headers of N records, arrays [N] in the order of their keys."""

    labels: NDArray[np.float32]
    """float32 [N], the first label of each record."""
    counts: NDArray[np.int64]
    """int64 [N], the number of its labels."""
    has_content: NDArray[np.bool_]
    """bool [N], whether an image follows."""


def unpack_record(payload: bytes) -> Record:
    """The parts of an image payload.

    Raises:
        DataError: it is too short for its labels.
    """
    flag, label, number, _ = _HEADER.unpack_from(payload) if len(payload) >= _HEADER.size else (0, 0.0, 0, 0)
    end = _HEADER.size + 4 * flag
    if len(payload) < end:
        raise DataError(f"a record of {len(payload)} bytes cannot hold its head of {end}; it is not an image record")
    if flag == 0:
        return Record((label,), number, payload[end:])
    return Record(struct.unpack(f"<{flag}f", payload[_HEADER.size : end]), number, payload[end:])


def pack_record(record: Record) -> bytes:
    """The payload of a record, which `unpack_record` reads; a single label is written in the short form.

    Raises:
        DataError: a whole number is not exact in float32, so that two identities could become one.
    """
    for label in record.labels:
        if float(label).is_integer() and float(np.float32(label)) != label:
            raise DataError(
                f"record {record.id}: label {label:.0f} is not exact in the float32 of RecordIO, which holds whole "
                f"numbers up to {2**24}; number the identities from 0"
            )
    if len(record.labels) == 1:
        return _HEADER.pack(0, record.labels[0], record.id, 0) + record.content
    labels = struct.pack(f"<{len(record.labels)}f", *record.labels)
    return _HEADER.pack(len(record.labels), 0.0, record.id, 0) + labels + record.content


class RecordReader:
    """Random access by key; threads and worker processes can share a reader."""

    def __init__(self, path: Path) -> None:
        """Open `path` and the `.idx` beside it.

        Raises:
            InputError: either file is missing.
            DataError: the index is malformed, or points beyond the end of a file cut short.
        """
        index = path.with_suffix(".idx")
        for file in (path, index):
            if not file.is_file():
                raise InputError(f"{file}: no such file; a RecordIO data set is NAME.rec with NAME.idx beside it")
        self.path = path
        self._file = PositionalFiles([path])
        self._size = path.stat().st_size
        self.keys, self._offsets = _read_index(index)  # int64 [N], by ascending key
        if len(self._offsets):
            self._read_from(int(self._offsets.max()))

    def read(self, key: int) -> bytes:
        """The payload of a record.

        Raises:
            DataError: no such key, or the file is damaged there.
        """
        place = int(np.searchsorted(self.keys, key))
        if place == len(self.keys) or self.keys[place] != key:
            raise DataError(f"{self.path}: the index has no record {key}")
        return self._read_from(int(self._offsets[place]))

    def unpack(self, key: int) -> Record:
        """The parts of an image record.

        Raises:
            DataError: no such key, or the file or the record is damaged.
        """
        payload = self.read(key)
        try:
            return unpack_record(payload)
        except DataError as error:
            raise DataError(f"{self.path}: record {key}: {error}") from error

    def heads(self) -> Heads:
        """The headers of all records, 36 bytes of each; images are not read.

        Raises:
            DataError: the file is damaged, or a record too short for its labels.
        """
        count = len(self.keys)
        heads = Heads(np.zeros(count, np.float32), np.zeros(count, np.int64), np.zeros(count, np.bool_))
        # In the order of the file, so that the system reads ahead instead of seeking.
        order = np.argsort(self._offsets, kind="stable")
        content = np.memmap(self.path, np.uint8, "r") if count else np.zeros(0, np.uint8)
        for start in range(0, count, _HEADS_AT_ONCE):
            self._read_heads(content, order[start : start + _HEADS_AT_ONCE], heads)
        return heads

    def _read_heads(self, content: NDArray[np.uint8], places: NDArray[np.int64], heads: Heads) -> None:
        """Fill in the heads of the records at `places`."""
        offsets = self._offsets[places]
        within = np.minimum(offsets[:, None] + np.arange(_HEAD.itemsize), self._size - 1)
        head = content[within].view(_HEAD)[:, 0]
        length = (head["word"] & _LENGTH_MASK).astype(np.int64)
        count = head["flag"].astype(np.int64)
        beyond = offsets + 8 + length > self._size
        foreign = head["magic"] != struct.unpack("<I", _MAGIC)[0]
        for place in places[beyond | foreign][:1]:
            self._read_from(int(self._offsets[place]))  # raises the error that fits
        whole = head["word"] >> _LENGTH_BITS == _WHOLE
        for place in places[whole & (length < _HEADER.size + 4 * count)][:1]:
            self.unpack(int(self.keys[place]))
        heads.labels[places] = np.where(count == 0, head["label"], head["first"])
        heads.counts[places] = np.maximum(count, 1)
        heads.has_content[places] = length > _HEADER.size + 4 * count
        # The magic may stand in the head itself, so a record in pieces is put together.
        for place in places[~whole]:
            record = self.unpack(int(self.keys[place]))
            heads.labels[place] = record.labels[0]
            heads.counts[place], heads.has_content[place] = len(record.labels), bool(record.content)

    def _read_from(self, offset: int) -> bytes:
        pieces: list[bytes] = []
        while True:
            part, piece, offset = self._read_piece(offset)
            if (part in (_WHOLE, _FIRST)) != (not pieces):
                raise DataError(f"{self.path}: a record's pieces are out of order before byte {offset}")
            pieces.append(piece)
            if part in (_WHOLE, _LAST):
                return _MAGIC.join(pieces)

    def _read_piece(self, offset: int) -> tuple[int, bytes, int]:
        head = self._file.read(0, 8, offset)
        if len(head) == 8 and head[:4] != _MAGIC:
            raise DataError(f"{self.path}: no record at byte {offset}; the index belongs to another file")
        word = struct.unpack_from("<I", head, 4)[0] if len(head) == 8 else 0
        length = word & _LENGTH_MASK
        piece = self._file.read(0, length, offset + 8)
        if len(head) < 8 or len(piece) < length:
            raise DataError(
                f"{self.path}: cut short: the record at byte {offset} needs {8 + length} bytes, the file has "
                f"{max(0, self._size - offset)} from there; copy it again"
            )
        return word >> _LENGTH_BITS, piece, offset + 8 + length + (-length % 4)


def write_records(path: Path, payloads: Iterable[tuple[int, bytes]]) -> None:
    """Write (key, payload) pairs to `path` and its `.idx`.

    Raises:
        DataError: a payload is too long for the format.
    """
    with path.open("wb") as file, path.with_suffix(".idx").open("w", encoding="ascii") as index:
        for key, payload in payloads:
            if len(payload) > _LENGTH_MASK:
                raise DataError(f"{path}: record {key} has {len(payload)} bytes; RecordIO allows {_LENGTH_MASK}")
            index.write(f"{key}\t{file.tell()}\n")
            file.write(_frame(payload))


def _frame(payload: bytes) -> bytes:
    """One payload as pieces with their heads and padding."""
    cuts = [at for at in range(0, len(payload) - 3, 4) if payload[at : at + 4] == _MAGIC]
    starts = [0, *(cut + 4 for cut in cuts)]
    ends = [*cuts, len(payload)]
    framed = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        part = _WHOLE if not cuts else _FIRST if number == 0 else _LAST if number == len(cuts) else _MIDDLE
        length = end - start
        head = _MAGIC + struct.pack("<I", part << _LENGTH_BITS | length)
        framed.append(head + payload[start:end] + b"\0" * (-length % 4))
    return b"".join(framed)


_FARTHEST = 1 << 48
"""No file has an offset beyond; sums of larger ones overflow."""


def _read_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys in ascending order, and their offsets."""
    if not path.stat().st_size:
        raise DataError(f"{path}: empty")
    try:
        lines = np.loadtxt(path, np.int64, comments=None, delimiter="\t", ndmin=2, encoding="latin-1")
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: {_first_bad_line(path)}") from error
    if lines.shape[1] != 2 or lines.min() < 0 or lines[:, 1].max() >= _FARTHEST:
        raise DataError(f"{path}: {_first_bad_line(path)}")
    order = np.argsort(lines[:, 0], kind="stable")
    keys, offsets = lines[order, 0], lines[order, 1]
    repeated = keys[1:][np.diff(keys) == 0]
    if repeated.size:
        raise DataError(f"{path}: key {repeated[0]} occurs twice")
    return keys, offsets


def _first_bad_line(path: Path) -> str:
    with path.open(encoding="latin-1") as file:
        for number, line in enumerate(file, 1):
            key, _, offset = line.rstrip("\r\n").partition("\t")
            if not (key.isascii() and key.isdigit() and offset.isascii() and offset.isdigit()):
                return f"line {number}: expected key and offset separated by a tab, got '{line.strip()[:40]}'"
    return "expected lines of key and offset separated by a tab"
