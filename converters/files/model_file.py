"""One ONNX model as one value that is read once, for all steps of a command.

A command opens a model file here, once, and passes the value on. So all of its steps use the same version of the file,
even if another program replaces the file meanwhile. Weights in other files (external data) are found and checked as a
whole by `external_data`, and are not read into memory; if such a file changes before it is read, the command stops with
"changed while reading".

The protobuf is parsed once, without the bytes of large weights (`outline`); `ir_model` and `proto` make editable copies
of it. `validation` checks the structure when the first copy is made; shapes and operators are checked later. onnx-ir is
imported with the first copy of that kind, since `inspect` needs none.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import onnx
from google.protobuf.message import DecodeError

from ...errors import InputError
from ..records.file_digest import FileDigest, OpenFile
from .external_data import ExternalData, find_external_data
from .large_weights import LARGE, Outline, outline_of
from .model_bytes import Content, HeldBytes, changed_while_reading, open_model, read_model_bytes
from .open_dimensions import has_misstated_dimensions, state_open_dimensions
from .stored_tensors import StoredTensor, refuse_sparse, stored_tensors
from .validation import check_proto

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = ["ModelFile", "ModelSource", "attach_source", "parse_model", "source_of"]

_META_KEY = "rtool.source"
_MEMORY = "<memory>"


@dataclass(frozen=True)
class ModelSource:
    """Where a loaded model came from; `name` is the file's name, or "<memory>"."""

    name: str = _MEMORY
    path: Path | None = None
    digest: FileDigest | str | None = None

    @property
    def sha256(self) -> str | None:
        """Of the file, as hexadecimal digits; computed on first use for a file that was not read completely.

        Raises:
            InputError: the file was written to since it was read.
        """
        return self.digest.value if isinstance(self.digest, FileDigest) else self.digest


def source_of(model: ir.Model) -> ModelSource:
    """The source that an onnx-ir model was loaded from."""
    source = model.meta.get(_META_KEY)
    return source if isinstance(source, ModelSource) else ModelSource()


def attach_source(model: ir.Model, source: ModelSource) -> None:
    """Record the source that `model` was loaded from, in place."""
    model.meta[_META_KEY] = source


class ModelFile:
    """An ONNX model and its file. To make one, call `read`, `mapped`, `of` or `in_memory`."""

    def __init__(self, source: ModelSource, outline: Outline, content: Content | None, size: int) -> None:
        self._source = source
        self.name, self.path = source.name, source.path
        """The file's name, or "<memory>", and its path, or None for a model in memory."""
        self.size = size
        """Size of the file itself in bytes; 0 for a model in memory."""
        self._outline = outline
        self._content = content
        self._checked = False
        self._reworded = content is not None and state_open_dimensions(outline.proto)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The model in a file; the bytes are read into memory, once.

        Raises:
            InputError: the file is missing, a folder, empty, a web page, a git-lfs pointer, truncated, or not ONNX.
        """
        path = Path(path)
        return cls._held(ModelSource(path.name, path), read_model_bytes(path))

    @classmethod
    def mapped(cls, path: str | Path) -> Self:
        """`read`, except that large weights stay in the file until they are used; the file stays open.

        It halves the time and the memory of a conversion, and suits callers that use the model at once.

        Raises:
            InputError: as `read`.
        """
        path = Path(path)
        file = open_model(path)
        size, _ = file.state()
        outline = _mapped_outline(file) if size > LARGE else None
        if outline is None:
            return cls._held(ModelSource(path.name, path), read_model_bytes(path, file))
        return cls(ModelSource(path.name, path, FileDigest(path, file)), outline, file, size)

    @classmethod
    def in_memory(cls, proto: onnx.ModelProto, source: ModelSource | None = None) -> Self:
        """A model that is not in a file, or one made from the file that `source` names. `proto` is never edited."""
        known = source or ModelSource()
        if has_misstated_dimensions(proto):
            proto = _copy_of(proto)
            state_open_dimensions(proto)
        return cls(ModelSource(known.name, None, known.digest), Outline(proto, {}), None, 0)

    @classmethod
    def of(cls, model: str | Path | bytes | onnx.ModelProto | ModelFile) -> ModelFile:
        """The model in a path, bytes, a proto or another `ModelFile`.

        Raises:
            InputError: as `read`.
        """
        if isinstance(model, ModelFile):
            return model
        if isinstance(model, onnx.ModelProto):
            return cls.in_memory(model)
        return cls._held(ModelSource(), model) if isinstance(model, bytes) else cls.read(model)

    @classmethod
    def _held(cls, source: ModelSource, data: bytes) -> Self:
        outline = outline_of(data) or Outline(_parsed(data, str(source.path or source.name)), {})
        return cls(source, outline, HeldBytes(data), len(data))

    @cached_property
    def source(self) -> ModelSource:
        """Name, path and digest of the file, as it was read."""
        if self.path is None or not isinstance(self._content, HeldBytes):
            return self._source
        return ModelSource(self.name, self.path, hashlib.sha256(self._content.data).hexdigest())

    @property
    def is_named(self) -> bool:
        """Whether the model is in a file, or was made from one."""
        return self.name != _MEMORY

    @property
    def label(self) -> str:
        """Path or name, for messages."""
        return str(self.path or self.name)

    @property
    def outline(self) -> onnx.ModelProto:
        """The model as it is in the file, without the bytes of large weights; not to be edited.

        Open dimensions that the file states as a number have none here, see `open_dimensions`.
        """
        return self._outline.proto

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """The model's own metadata."""
        return {entry.key: entry.value for entry in self.outline.metadata_props}

    @cached_property
    def _stored(self) -> tuple[StoredTensor, ...]:
        return tuple(stored_tensors(self.outline, self.label))

    @cached_property
    def has_external_data(self) -> bool:
        """Whether weights are in other files."""
        return any(stored.is_external for stored in self._stored)

    @property
    def is_restated(self) -> bool:
        """Whether the file states open dimensions as numbers, which this model does not."""
        return self._reworded

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself, then the files with external data; empty for a model in memory.

        Raises:
            InputError: as `ir_model`.
        """
        return () if self.path is None else (self.path, *self._external.files)

    @cached_property
    def _external(self) -> ExternalData:
        """The external data, all of it checked, none of it read."""
        if not self.has_external_data:
            return ExternalData()
        check_proto(self.outline, self.label)
        return find_external_data(self.outline, self.label, self.path)

    def ir_model(self) -> ir.Model:
        """A new onnx-ir model, which may be edited freely. Its weights are read on use.

        Raises:
            InputError: the graph is malformed, or external data is missing, of another size, or said to lie where a
                model may not look.
        """
        import onnx_ir as ir

        self.check()
        proto = self.outline
        if self.has_external_data:
            proto = _copy_of(proto)
            self._external.fill(proto, leave_large=True)
        try:
            model = ir.from_proto(proto)
        except Exception as error:  # onnx-ir reports a malformed proto with whatever it stumbled over
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__  # type: ignore[assignment]
            raise InputError(f"{self.label}: malformed ONNX model ({cause}); re-export it") from error
        if self._content is not None:
            self._outline.put_weights_into(model, self._content)
        self._external.put_weights_into(model)
        attach_source(model, self.source)
        return model

    def proto(self, *, leave_large_external: bool = False) -> onnx.ModelProto:
        """A new proto that includes its weights, and may be edited freely.

        Args:
            leave_large_external: leave out large weights in other files; `external_weights` reads them.

        Raises:
            InputError: as `ir_model`, or a file changed since it was opened.
        """
        self._check()
        proto = _copy_of(self.outline)
        if self._content is not None:
            self._outline.fill(proto, self._content)
        self._external.fill(proto, leave_large=leave_large_external)
        self.check_unchanged()
        return proto

    def external_weights(self, proto: onnx.ModelProto) -> dict[str, NDArray[Any]]:
        """The large weights by name that `proto(leave_large_external=True)` left out, read now."""
        return self._external.weights(proto)

    def content(self) -> bytes:
        """The bytes for ONNX Runtime, of a model without external data.

        Raises:
            InputError: it was written to since it was opened.
        """
        if self._content is not None and not self._reworded:
            return self._content.read_all()
        restated: bytes = (self.outline if self._content is None else self.proto()).SerializeToString()
        return restated

    def check(self) -> None:
        """Check the structure, and that the external data is there, without reading it.

        Raises:
            InputError: as `ir_model`.
        """
        self._check()
        refuse_sparse(self._stored)

    def _check(self) -> None:
        if self._checked:
            return
        check_proto(self.outline, self.label)
        _ = self._external
        self._checked = True

    def check_unchanged(self) -> None:
        """Check that no file of the model changed since it was opened.

        Raises:
            InputError: one was replaced or written to meanwhile.
        """
        for path in self._external.changed:
            raise changed_while_reading(path)
        if isinstance(self._content, OpenFile) and not self._content.is_unchanged:
            raise changed_while_reading(self.path or Path(self.name))


def parse_model(path: Path) -> onnx.ModelProto:
    """The proto in a file, without any checks: for the graph of a bundle, which has no weights.

    Raises:
        InputError: as `ModelFile.read`.
    """
    proto = _parsed(read_model_bytes(path), str(path))
    state_open_dimensions(proto)
    return proto


def _mapped_outline(file: OpenFile) -> Outline | None:
    if not hasattr(os, "preadv"):  # Windows
        return None
    try:
        with mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ) as view:
            return outline_of(view)
    except OSError:
        return None


def _parsed(data: bytes, label: str) -> onnx.ModelProto:
    try:
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
        return proto
    except DecodeError as error:
        raise InputError(
            f"{label}: expected an ONNX model, got {len(data)} bytes that are not one or are cut short; "
            "compare its size with the original and fetch it again"
        ) from error


def _copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy
