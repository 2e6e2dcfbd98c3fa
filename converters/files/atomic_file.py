"""Write files atomically, complete or not at all, and never over the source of a model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError

from ...errors import InputError

__all__ = ["check_file_output", "serialised", "write_atomically", "write_together"]

_LARGEST = 1 << 31
"""Bytes; the size limit of one protobuf file."""


def check_file_output(path: Path, *, sources: Iterable[Path] = ()) -> None:
    """Refuse an output that cannot or must not be written, before any work.

    Args:
        path: the file to write.
        sources: files and folders that are never modified: the source model, then the files with its weights.

    Raises:
        InputError: `path` is a folder or one of `sources`, lies inside one of them, or its parent is missing or
            read-only.
    """
    target = path.resolve()
    for index, source in enumerate(sources):
        resolved = source.resolve()
        if target == resolved or _is_same(path, source):
            what = "holds weights of the source" if index else "is the source itself"
            raise InputError(f"{path}: {what}, which is never modified; choose another output")
        if resolved.is_dir() and resolved in target.parents:
            raise InputError(f"{path}: lies inside the source {source}, which is never modified; choose another output")
    if path.is_dir():
        raise InputError(f"{path}: expected a file to write, got a folder; give a file name in it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.parent} cannot be written into; choose another output")


def _is_same(path: Path, source: Path) -> bool:
    """Whether both names lead to one file: by hard links, or where case does not count."""
    try:
        return path.samefile(source)
    except OSError:
        return False


def write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file beside `path`, then rename it.

    Raises:
        InputError: the disk is full or the folder not writable; nothing is left behind.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write a temporary file beside every path, and rename them when all are on the disk.

    Raises:
        InputError: the disk is full or a folder not writable; nothing is left behind.
    """
    temporaries: dict[Path, Path] = {}
    made: list[Path] = []
    path = next(iter(files))
    try:
        for path, data in files.items():
            temporaries[path] = _write_beside(path, data)
        for path, temporary in temporaries.items():
            was_there = path.exists()
            os.replace(temporary, path)
            if not was_there:
                made.append(path)
    except OSError as error:
        for file in made:
            file.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror}); nothing was left behind") from error
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def _write_beside(path: Path, data: bytes) -> Path:
    """A temporary file with that content in the folder of `path`, with the permissions of the user's umask."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def serialised(model: onnx.ModelProto, name: str) -> bytes:
    """The bytes of one self-contained ONNX file.

    Raises:
        InputError: the model is larger than one file can be (2 GiB).
    """
    too_large = f"{name}: larger than the 2 GiB one ONNX file can hold; export a smaller model or with fp16"
    try:
        if model.ByteSize() >= _LARGEST:
            raise InputError(too_large)
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise InputError(too_large) from error
