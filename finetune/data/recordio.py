"""MXNet RecordIO files `.rec` with their index `.idx`, read and written without mxnet.

A record is u32 magic 0xced7230a, u32 (part << 29 | length), the payload, zeros up to a multiple of 4. Where the magic
stands in a payload at a multiple of 4 it is cut out and the payload split there: part 0 is a whole record, 1 the first,
2 a middle and 3 the last piece. The index has lines `key TAB offset`. Checked against bytes written by mxnet 1.9.1.

An image payload starts with `<IfQQ`: flag, label, id, id2; with flag > 0 that many float32 labels follow.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ...errors import DataError, InputError

__all__ = ["Record", "RecordReader", "pack_record", "unpack_record", "write_records"]

_MAGIC = struct.pack("<I", 0xCED7230A)
_HEADER = struct.Struct("<IfQQ")
_LENGTH_BITS = 29
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


class Record(NamedTuple):
    """Labels (float32 on disk), id, and the encoded image."""

    labels: tuple[float, ...]
    id: int
    content: bytes


def unpack_record(payload: bytes) -> Record:
    """The parts of an image payload."""
    flag, label, number, _ = _HEADER.unpack_from(payload)
    if flag == 0:
        return Record((label,), number, payload[_HEADER.size :])
    end = _HEADER.size + 4 * flag
    return Record(struct.unpack(f"<{flag}f", payload[_HEADER.size : end]), number, payload[end:])


def pack_record(record: Record) -> bytes:
    """The inverse of `unpack_record`; a single label takes the short form."""
    if len(record.labels) == 1:
        return _HEADER.pack(0, record.labels[0], record.id, 0) + record.content
    labels = struct.pack(f"<{len(record.labels)}f", *record.labels)
    return _HEADER.pack(len(record.labels), 0.0, record.id, 0) + labels + record.content


class RecordReader:
    """Random access by key. Reads by position, so threads and forked workers may share it."""

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
        self._file = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._file).st_size
        self.offsets = _read_index(index)
        last = max(self.offsets.values(), default=0)
        if self.offsets:
            self._read_at(last)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def read(self, key: int) -> bytes:
        """The payload of a record.

        Raises:
            DataError: no such key, or the file is damaged there.
        """
        if key not in self.offsets:
            raise DataError(f"{self.path}: the index has no record {key}")
        return self._read_at(self.offsets[key])

    def _read_at(self, offset: int) -> bytes:
        pieces: list[bytes] = []
        while True:
            part, piece, offset = self._read_piece(offset)
            if (part in (_WHOLE, _FIRST)) != (not pieces):
                raise DataError(f"{self.path}: a record's pieces are out of order before byte {offset}")
            pieces.append(piece)
            if part in (_WHOLE, _LAST):
                return _MAGIC.join(pieces)

    def _read_piece(self, offset: int) -> tuple[int, bytes, int]:
        head = os.pread(self._file, 8, offset)
        if len(head) == 8 and head[:4] != _MAGIC:
            raise DataError(f"{self.path}: no record at byte {offset}; the index belongs to another file")
        word = struct.unpack_from("<I", head, 4)[0] if len(head) == 8 else 0
        length = word & _LENGTH_MASK
        piece = os.pread(self._file, length, offset + 8)
        if len(head) < 8 or len(piece) < length:
            raise DataError(
                f"{self.path}: cut short: the record at byte {offset} needs {8 + length} bytes, the file has "
                f"{max(0, self._size - offset)} from there; copy it again"
            )
        return word >> _LENGTH_BITS, piece, offset + 8 + length + (-length % 4)


def write_records(path: Path, payloads: Iterable[tuple[int, bytes]]) -> None:
    """Write (key, payload) pairs to `path` and its `.idx`."""
    with path.open("wb") as file, path.with_suffix(".idx").open("w", encoding="ascii") as index:
        for key, payload in payloads:
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


def _read_index(path: Path) -> dict[int, int]:
    offsets: dict[int, int] = {}
    for number, line in enumerate(path.read_text(encoding="ascii", errors="replace").splitlines(), 1):
        key, _, offset = line.partition("\t")
        if not (key.isdigit() and offset.isdigit()):
            raise DataError(f"{path}: line {number}: expected key and offset separated by a tab, got '{line[:40]}'")
        offsets[int(key)] = int(offset)
    return offsets
