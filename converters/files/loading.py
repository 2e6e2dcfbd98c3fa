"""Open an ONNX model as an onnx-ir model, refusing everything that is not one with a message that helps.

The file is read once and never written; a caller's proto or IR model is never changed: the IR made from a proto
shares its weight bytes and owns everything else. Structure is checked in `validation.py`, meaning (shapes,
operators) later in the pipeline.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ...errors import InputError
from ..records.file_digest import FileDigest, OpenFile
from .external_data import ExternalData, bring_in_tensors, find_external_data
from .mapped_weights import MappedModel, open_mapped
from .stored_tensors import refuse_sparse
from .validation import check_proto

__all__ = ["ModelSource", "data_files_of", "load_onnx", "parse_model", "read_model_bytes", "source_of"]

_META_KEY = "rtool.source"
_EXTERNAL_KEY = "rtool.external_data"
_HASHED_AT_ONCE = 4 << 20
"""Bytes, of which the digest takes a few milliseconds; a larger file stays open until somebody asks for it."""
_EXPORT_HINT = "export the model with torch.onnx.export or download the .onnx file itself"


@dataclass(frozen=True)
class ModelSource:
    """Where a loaded model came from; `name` is the file's name, or "<memory>"."""

    name: str
    path: Path | None = None
    digest: FileDigest | str | None = None

    @property
    def sha256(self) -> str | None:
        """Of the file; that of a large one is worked out when first asked for.

        Raises:
            InputError: the file was written to since it was read.
        """
        return self.digest.value if isinstance(self.digest, FileDigest) else self.digest


def load_onnx(model: str | Path | onnx.ModelProto | ir.Model, *, mapped: bool = False) -> ir.Model:
    """The model as a fresh onnx-ir model that may be edited freely.

    External data is checked as a whole and read as `external_data` says. Large weights inside the file itself are read
    lazily with `mapped`: for those who are done with the model before the file can change.

    Raises:
        InputError: the file is missing, a folder, empty, a web page, a git-lfs pointer, truncated, or not ONNX; the
            graph is malformed; or weights are missing, or said to lie where a model may not look.
    """
    if isinstance(model, ir.Model):
        loaded = model.clone()
        bring_in_tensors(loaded)
        loaded.meta[_META_KEY] = source_of(model)
        return loaded
    if isinstance(model, onnx.ModelProto):
        return _from_proto(model, ModelSource("<memory>"))
    path = Path(model)
    found = open_mapped(path) if mapped else None
    if found is not None:
        return _from_proto(found.proto, ModelSource(path.name, path, FileDigest(path, found.file)), found)
    data = read_model_bytes(path)
    digest = hashlib.sha256(data).hexdigest() if len(data) <= _HASHED_AT_ONCE else FileDigest(path, OpenFile(path))
    return _from_proto(_parse(data, path), ModelSource(path.name, path, digest))


def source_of(model: ir.Model) -> ModelSource:
    """Where `load_onnx` found `model`."""
    source = model.meta.get(_META_KEY)
    return source if isinstance(source, ModelSource) else ModelSource("<memory>")


def data_files_of(model: ir.Model) -> tuple[Path, ...]:
    """The files besides its own that hold weights of a model which `load_onnx` opened."""
    external = model.meta.get(_EXTERNAL_KEY)
    return external.files if isinstance(external, ExternalData) else ()


def read_model_bytes(path: Path) -> bytes:
    """The bytes of an ONNX file, after telling apart what else a file of that name may hold.

    Raises:
        InputError: missing, a folder, empty, unreadable, or recognisably something else.
    """
    if path.is_dir():
        if (path / "bundle.json").is_file():
            raise InputError(f"{path}: expected an ONNX file, got a bundle; `rtool export` makes ONNX of it")
        inside = sorted(entry.name for entry in path.glob("*.onnx"))
        hint = f"give {path / inside[0]}" if inside else "give the .onnx file"
        raise InputError(f"{path}: expected an ONNX file, got a folder; {hint}")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path{_neighbours(path)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    _refuse_other_formats(path, data[:512], len(data))
    return data


def parse_model(path: Path) -> onnx.ModelProto:
    """The proto in a file, structure unchecked.

    Raises:
        InputError: as `read_model_bytes`, or the bytes are not an ONNX model.
    """
    return _parse(read_model_bytes(path), path)


def _neighbours(path: Path) -> str:
    folder = path.parent
    found = sorted(entry.name for entry in folder.glob("*.onnx"))[:5] if folder.is_dir() else []
    return f" (in {folder}: {', '.join(found)})" if found else ""


def _refuse_other_formats(path: Path, head: bytes, size: int) -> None:
    if size == 0:
        raise InputError(f"{path}: expected an ONNX model, got an empty file; {_EXPORT_HINT}")
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: expected an ONNX model, got a git-lfs pointer; run `git lfs pull` first")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{path}: expected an ONNX model, got a web page; {_EXPORT_HINT}")
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: expected an ONNX model, got a zip archive (a torch .pt or .pth?); {_EXPORT_HINT}")


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    try:
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
        return proto
    except DecodeError as error:
        raise InputError(
            f"{path}: expected an ONNX model, got {len(data)} bytes that are not one or are cut short; "
            "compare its size with the original and fetch it again"
        ) from error


def _from_proto(proto: onnx.ModelProto, source: ModelSource, mapped: MappedModel | None = None) -> ir.Model:
    name = str(source.path or source.name)
    check_proto(proto, name)
    external = find_external_data(proto, name, source.path)
    refuse_sparse(proto, name)
    external.fill(proto, leave_large=True)  # of our own: one in memory has none
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx-ir reports a malformed proto with whatever it stumbled over
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__  # type: ignore[assignment]
        raise InputError(f"{name}: malformed ONNX model ({cause}); export it again") from error
    if mapped is not None:
        mapped.put_weights_into(model)
    external.put_weights_into(model)
    model.meta[_META_KEY] = source
    model.meta[_EXTERNAL_KEY] = external
    return model
