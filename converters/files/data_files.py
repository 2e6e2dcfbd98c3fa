"""The files beside a model that hold its weights: which a location may name, and how one is opened.

A model file is not trusted to name files. A location is a relative path downwards, in plain characters, and what it
leads to lies inside the model's folder when every link is resolved. A download cache links each name to a blob; there
the blobs lie beside the blob of the model itself, and are read from that folder too. The file is opened once, component
by component and without following a link, so that what was checked is what is read.

Sources: ONNX, docs/ExternalData.md (locations) and docs/Security.md (links, hard links, time of check and use);
CVE-2022-25882, CVE-2024-27318, CVE-2025-51480, CVE-2026-27489, CVE-2026-34446, CVE-2026-34447, GHSA-q56x-g2fj-4rj6.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ...errors import InputError
from ..records.file_digest import OpenFile

__all__ = ["DataFile", "check_location", "find_data_file"]

_BUNDLE_WEIGHTS = "weights.safetensors#"
_MOST_CHARACTERS, _MOST_BYTES = 1024, 255
"""Of a location, and of one name in it; no file system has longer names."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a link that was not there a moment ago"),
)


class _Handle(OpenFile):
    """A file that is open already."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)


@dataclass(frozen=True)
class DataFile:
    """A data file that may be read: its name beside the model, and where it really lies."""

    path: Path
    """As the model names it."""
    root: str
    """The folder it really lies in or below."""
    below: str
    """Its path from there, without a link."""
    device: int
    inode: int
    size: int
    changed: int
    """Time of the last change, in nanoseconds."""

    @property
    def identity(self) -> tuple[int, int]:
        """The same for two names of one file."""
        return self.device, self.inode

    def open(self, label: str) -> OpenFile:
        """Open it again.

        Raises:
            InputError: it cannot be opened, or is another file or another content than was checked.
        """
        file = _Handle(_open_beneath(self.root, self.below, self.path, label))
        self.check(file, label)
        return file

    def check(self, file: OpenFile, label: str) -> None:
        """Refuse a file that is no longer what was checked.

        Raises:
            InputError: it was replaced or written to.
        """
        if self._differs(os.fstat(file.descriptor)):
            raise InputError(
                f"{label}: external data file {self.path}: changed while reading: expected it as it was when this "
                "command began; let whatever writes it finish, and run the command again"
            )

    @property
    def is_changed(self) -> bool:
        """Whether what lies at `path` now was replaced or written to."""
        try:
            return self._differs(self.path.stat())
        except OSError:
            return True

    def _differs(self, status: os.stat_result) -> bool:
        found = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return found != (*self.identity, self.size, self.changed)


def find_data_file(location: str, model: Path, label: str) -> tuple[DataFile, OpenFile]:
    """Check and open the data file that the model at `model` calls `location`: a regular file with one name.

    Raises:
        InputError: naming `label`, the location and what is wrong with it.
    """
    check_location(location, label)
    path, root, below = _resolved(location, model, label)
    file = _Handle(_open_beneath(root, below, path, label))
    status = os.fstat(file.descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{label}: external data file {path} is {_kind(status.st_mode)}, not a file of weights")
    if status.st_nlink > 1:
        raise InputError(
            f"{label}: external data file {path} has {status.st_nlink} hard links, so it may be a file from outside "
            "the model's folder; put a copy of it beside the model"
        )
    found = DataFile(path, root, below, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if model.exists() and os.path.samestat(model.stat(), status):
        raise InputError(f"{label}: external data file {path} is the model itself; the file is damaged, fetch it again")
    return found, file


def check_location(location: str, label: str) -> None:
    """Refuse what is not a plain path downwards, before anything is looked up.

    Raises:
        InputError: it is absolute, goes upwards, or is written in another way than ONNX has it.
    """
    if location.startswith(_BUNDLE_WEIGHTS):
        raise InputError(
            f"{label}: its data is in {_BUNDLE_WEIGHTS[:-1]} of a bundle; give the bundle's folder instead"
        )
    cause = _flaw(location)
    if cause:
        raise InputError(
            f"{label}: external data location {_shown(location)} {cause}; expected the name of a file beside the "
            "model: export the model again, or fetch it from who made it"
        )


def _flaw(location: str) -> str:
    decoded = unquote(location)
    parts = re.split(r"[/\\]", location)
    if not location.strip():
        return "is empty"
    if any(ord(character) < 32 for character in location):
        return "holds control characters"
    if len(location) > _MOST_CHARACTERS:
        return f"has {len(location)} characters (at most {_MOST_CHARACTERS})"
    if any(len(part.encode()) > _MOST_BYTES for part in parts):
        return f"has a name of more than {_MOST_BYTES} bytes"
    if location.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", location):
        return "is an absolute path and leaves the model's folder"
    if ".." in parts:
        return "goes upwards and leaves the model's folder"
    if "\\" in location:
        return "is written with backslashes"
    if "://" in location or (decoded != location and (".." in re.split(r"[/\\]", decoded) or decoded[0] in "/\\")):
        return "is written as a URL and leaves the model's folder"
    if location.startswith("*/"):
        return "is a mark for memory, which no file may hold"
    if not PurePosixPath(location).parts:
        return "is the model's folder"
    return ""


def _shown(location: str) -> str:
    text = repr(location)
    return text if len(text) <= 120 else f"{text[:100]}...'"


def _resolved(location: str, model: Path, label: str) -> tuple[Path, str, str]:
    """The path of a data file as it is named, the folder that it may lie in, and its real path from there."""
    homes = [os.path.realpath(model.parent)]
    store = os.path.dirname(os.path.realpath(model)) if model.is_symlink() else ""
    path = model.parent / location
    if store and store not in homes and not os.path.lexists(path):
        path, homes, store = Path(store, location), [store], ""  # only the model is linked
    try:
        real = os.path.realpath(path, strict=True)
    except OSError as error:
        raise InputError(f"{label}: external data file {path} {_why_unfound(path, error)}") from None
    for home in homes:
        if os.path.commonpath([home, real]) == home and real != home:
            return path, home, os.path.relpath(real, home)
    if store and os.path.dirname(real) == store:
        return path, store, os.path.basename(real)
    if real in homes:
        raise InputError(f"{label}: external data file {path} is a folder, not a file of weights")
    raise InputError(
        f"{label}: external data file {path} is a link that leaves the model's folder (to {real}); put the data file "
        "itself beside the model"
    )


def _why_unfound(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a link to itself; copy the data file beside the model"
    if os.path.islink(path):
        return f"is a link to {os.readlink(path)}, which does not exist; fetch the whole model again"
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return f"cannot be opened ({error.strerror}); check its name and permissions"
    try:
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError:
        names = []
    near = [name for name in names if name.casefold() == path.name.casefold()]
    hint = f" (there is {near[0]!r}, in other letters)" if near else ""
    return f"is missing{hint}; copy it beside the model"


def _open_beneath(root: str, below: str, path: Path, label: str) -> int:
    """A descriptor for reading `below` under `root`; no component may be a link, and nothing but a file is opened."""
    try:
        if os.open not in os.supports_dir_fd:  # Windows
            return os.open(os.path.join(root, below), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return _open_each(root, below, path, label)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise InputError(f"{label}: external data file {path} is {_KINDS[-1][1]}; read it again") from error
        raise InputError(
            f"{label}: external data file {path} cannot be opened ({error.strerror}); check its permissions"
        ) from error


def _open_each(root: str, below: str, path: Path, label: str) -> int:
    folder_flags = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
    *folders, name = Path(below).parts
    folder = os.open(root, folder_flags)
    try:
        for part in folders:
            inner = os.open(part, folder_flags | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode):  # opening a device or a pipe may have effects of its own
            raise InputError(f"{label}: external data file {path} is {_kind(mode)}, not a file of weights")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=folder)
    finally:
        os.close(folder)


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a special file")
