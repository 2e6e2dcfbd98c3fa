"""The zip container of torch's files: read strictly, and written again from checked records only.

Two readers of one zip file can disagree about what is in it (two records of one name, data before the first record, a
central directory that contradicts the local headers). Here such files are refused, and torch reads an archive that
`pack` wrote, so there is nothing left to disagree about.

Bounds: records are stored, not compressed, except for texts that torch compresses itself; together they are no longer
than the file. This excludes archives that unpack to more than memory holds.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from ....errors import InputError

__all__ = ["TorchArchive", "pack"]

_ROOT = "archive"
_NAME = re.compile(r"[A-Za-z0-9_.\-+ ]+(/[A-Za-z0-9_.\-+ ]+)*")
_MOST_RECORDS = 200_000
_MOST_UNPACKED = 1 << 28
"""Bytes that all compressed records of a file may come to; they are source text and small pickles."""


class TorchArchive:
    """The records of one file, by their names below the archive's single root folder."""

    def __init__(self, path: str | Path, content: bytes) -> None:
        """Read the directory.

        Raises:
            InputError: it is not a zip archive, or one that two readers could read differently.
        """
        self.path = path
        if not content.startswith(b"PK\x03\x04"):
            raise InputError(f"{path}: expected an archive as torch writes it, got something else; save it with torch")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
            entries = self._zip.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, IndexError) as error:
            raise InputError(f"{path}: it is not a readable zip archive ({error})") from error
        self._entries = self._checked(entries, len(content))

    @property
    def names(self) -> frozenset[str]:
        """Names of the records."""
        return frozenset(self._entries)

    def size(self, name: str) -> int:
        """Bytes of a record."""
        return self._entries[name].file_size

    def read(self, name: str, limit: int | None = None) -> bytes:
        """The bytes of a record.

        Raises:
            InputError: there is no such record, it is damaged, or longer than `limit`.
        """
        if name not in self._entries:
            raise InputError(f"{self.path}: record {name!r} is missing; save the file again")
        if limit is not None and self.size(name) > limit:
            raise InputError(f"{self.path}: record {name!r} has {self.size(name)} bytes, at most {limit} are read")
        try:
            content = self._zip.read(self._entries[name])
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            ValueError,
            NotImplementedError,
            RuntimeError,
            zlib.error,
        ) as error:
            raise InputError(f"{self.path}: record {name!r} is damaged ({error})") from error
        if len(content) != self.size(name):
            raise InputError(f"{self.path}: record {name!r} has {len(content)} bytes, {self.size(name)} are stated")
        return content

    def _checked(self, entries: list[zipfile.ZipInfo], length: int) -> dict[str, zipfile.ZipInfo]:
        if not 0 < len(entries) <= _MOST_RECORDS:
            raise InputError(f"{self.path}: it has {len(entries)} records, 1 to {_MOST_RECORDS} are read")
        roots = {entry.filename.partition("/")[0] for entry in entries}
        if len(roots) != 1:
            raise InputError(f"{self.path}: its records lie in {len(roots)} folders, torch writes them into one")
        found: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            name = self._name(entry)
            if name in found:
                raise InputError(f"{self.path}: record {name!r} is in it twice")
            found[name] = entry
        stored = sum(entry.compress_size for entry in entries)
        unpacked = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
        if stored > length or unpacked > _MOST_UNPACKED:
            raise InputError(f"{self.path}: its records overlap, or unpack to {unpacked} bytes; it is not a torch file")
        return found

    def _name(self, entry: zipfile.ZipInfo) -> str:
        name = entry.filename.partition("/")[2]
        parts = name.split("/")
        if not _NAME.fullmatch(name) or ".." in parts or "." in parts or len(name) > 1000:
            raise InputError(f"{self.path}: a record is named {entry.filename[:100]!r}, torch writes no such name")
        if entry.flag_bits & 0x1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{self.path}: record {name!r} is encrypted or packed in a way that torch does not use")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise InputError(f"{self.path}: record {name!r} states two sizes")
        return name


def pack(records: Mapping[str, bytes]) -> io.BytesIO:
    """A new archive of `records`, all of them stored, for torch to open."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(f"{_ROOT}/{name}", content)
    file.seek(0)
    return file
