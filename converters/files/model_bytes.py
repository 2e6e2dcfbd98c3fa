"""Open a model file and read its bytes, once.

A path that cannot be an ONNX model (a folder, a web page, a git-lfs pointer, a zip archive) is refused with the next
step to take. A file that is written to while it is read is refused too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...errors import InputError
from ..records.file_digest import OpenFile
from .torch_archives.special_files import refuse_special

__all__ = [
    "TORCHSCRIPT_SUFFIXES",
    "TORCH_SUFFIXES",
    "Content",
    "HeldBytes",
    "Place",
    "changed_while_reading",
    "open_model",
    "read_model_bytes",
    "refuse_served",
]

TORCHSCRIPT_SUFFIXES = (".pt", ".ts", ".torchscript")
TORCH_SUFFIXES = (*TORCHSCRIPT_SUFFIXES, ".pt2")
"""Files that torch opens."""
_EXPORT_HINT = "export the model with torch.onnx.export or download the .onnx file itself"
_HEAD = 512
"""Bytes at the start of a file by which other formats are recognised."""


@dataclass(frozen=True)
class Place:
    """Position of the bytes of a weight in a file."""

    offset: int
    length: int


class Content(Protocol):
    """The bytes of a model file, in memory or on the disk."""

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset` on.

        Raises:
            InputError: there are fewer.
        """

    def read_all(self) -> bytes:
        """All of them."""


class HeldBytes:
    """The bytes of a file, in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset` on."""
        target[:] = memoryview(self.data)[offset : offset + len(target)]

    def read_all(self) -> bytes:
        """All of them."""
        return self.data


def open_model(path: Path) -> OpenFile:
    """Open an ONNX file, after recognising what else a file of that name may hold.

    Raises:
        InputError: missing, a folder, empty, unreadable, on a server, or recognisably something else.
    """
    refuse_served(path)
    if path.is_dir():
        if (path / "bundle.json").is_file():
            raise InputError(f"{path}: expected an ONNX file, got a bundle; `rtool export` makes ONNX of it")
        inside = sorted(entry.name for entry in path.glob("*.onnx"))
        hint = f"give {path / inside[0]}" if inside else "give the .onnx file"
        raise InputError(f"{path}: expected an ONNX file, got a folder; {hint}")
    refuse_special(path)
    try:
        file = OpenFile(path)
        head = file.read(_HEAD)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path{_neighbours(path)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r}: no file can have this name ({error}); check the path") from error
    _refuse_other_formats(path, head)
    return file


def refuse_served(reference: str | Path) -> None:
    """Refuse a model of a running server where its graph or weights are needed.

    Raises:
        InputError: `reference` is triton://..., also as a path, which has one slash less.
    """
    if str(reference).startswith("triton:/"):
        raise InputError(
            f"{reference}: is a model on a server, which gives outputs but no graph and no weights; give the file or "
            "bundle that it was deployed from"
        )


def read_model_bytes(path: Path, file: OpenFile | None = None) -> bytes:
    """The bytes of an ONNX file, which may be open already.

    Raises:
        InputError: as `open_model`, or the file was written to meanwhile.
    """
    file = file or open_model(path)
    try:
        data = file.read_all()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not file.is_unchanged or len(data) != file.state()[0]:
        raise changed_while_reading(path)
    return data


def changed_while_reading(path: Path) -> InputError:
    """The error for a file that another program changed while this command used it."""
    return InputError(
        f"{path}: changed while reading: expected the file as it was when this command began, got another size or "
        "time of change; let whatever writes it finish, and run the command again"
    )


def _neighbours(path: Path) -> str:
    folder = path.parent
    found = sorted(entry.name for entry in folder.glob("*.onnx"))[:5] if folder.is_dir() else []
    return f" (in {folder}: {', '.join(found)})" if found else ""


def _refuse_other_formats(path: Path, head: bytes) -> None:
    if not head:
        raise InputError(f"{path}: expected an ONNX model, got an empty file; {_EXPORT_HINT}")
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: expected an ONNX model, got a git-lfs pointer; run `git lfs pull` first")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{path}: expected an ONNX model, got a web page; {_EXPORT_HINT}")
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: expected an ONNX model, got a zip archive (a torch .pt or .pth?); {_EXPORT_HINT}")
