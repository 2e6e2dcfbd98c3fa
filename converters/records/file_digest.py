"""The SHA-256 of a file as it was opened, computed on first use.

A conversion does not need it, a bundle does; hashing 260 MB takes as long as converting them.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from pathlib import Path
from typing import Any, Self

from ...errors import InputError

__all__ = ["FileDigest", "OpenFile"]


class OpenFile:
    """A file that stays open, so that its bytes can be read even after its name was given to another file."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        self._opened = self.state()

    def read(self, size: int) -> bytes:
        """At most `size` bytes from the start of the file."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return os.read(self.descriptor, size)

    def read_all(self) -> bytes:
        """The whole file."""
        with open(os.dup(self.descriptor), "rb", buffering=0) as stream:
            stream.seek(0)
            return stream.readall()

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset` on, without another copy.

        Raises:
            InputError: the file was cut short since it was opened.
        """
        done = 0
        while done < len(target):
            read = os.preadv(self.descriptor, [target[done:]], offset + done)
            if not read:
                raise InputError("the file was cut short while it was read; fetch it again")
            done += read

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing was written to it since it was opened, as far as size and time of change show."""
        return self.state() == self._opened

    def state(self) -> tuple[int, int]:
        """Size in bytes and time of the last change in nanoseconds; they differ after it was written to in place."""
        status = os.fstat(self.descriptor)
        return status.st_size, status.st_mtime_ns


class FileDigest:
    """The digest of one open file; copies share it, and pickling computes it."""

    def __init__(self, path: Path, file: OpenFile) -> None:
        self._name = path.name
        self._file: OpenFile | None = file
        self._value: str | None = None

    @property
    def value(self) -> str:
        """As hexadecimal digits.

        Raises:
            InputError: the file was written to since it was opened, or cannot be read any more.
        """
        if self._value is None:
            assert self._file is not None
            try:
                with open(os.dup(self._file.descriptor), "rb") as stream:
                    stream.seek(0)
                    found = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"{self._name}: can no longer be read ({error.strerror}); convert it again") from error
            if not self._file.is_unchanged:
                raise InputError(f"{self._name}: was written to since it was read; convert it again")
            self._value, self._file = found, None
        return self._value

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_file": None, "_value": self.value}
