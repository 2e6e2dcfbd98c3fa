"""Split the bytes of an ONNX file into a proto without the large weights, and the positions of those weights.

Parsing copies every weight into the proto, and each is copied again into its parameter; for a 260 MB file that takes
half of the time of a conversion, and as much memory as the file. Therefore the protobuf wire format is read only as far
as needed to find the `raw_data` of the large initializers; the small remainder is parsed as usual, and each weight is
read directly into its parameter. For bytes that are unusual in any way, `outline_of` returns None, and the ordinary
parser decides.

Wire format: https://protobuf.dev/programming-guides/encoding; field numbers: onnx.proto.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError

from .element_types import bits_of
from .model_bytes import Content, Place

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LARGE", "PLAIN", "Outline", "outline_of"]

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5
LARGE = 1 << 20
"""Bytes; a larger weight stays in the file. The structural checks do not read such bytes either."""
PLAIN = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
)


class _UnusualError(Exception):
    """Bytes that are left to the ordinary parser."""


@dataclass(frozen=True)
class Outline:
    """A proto whose large initializers have empty `raw_data`, and the positions of their bytes in the file."""

    proto: onnx.ModelProto
    places: Mapping[str, Place]

    def put_weights_into(self, model: ir.Model, content: Content) -> None:
        """Attach the weights to the initializers of the IR made from `proto`, in place; they are read on use."""
        from .file_tensor import FileTensor

        for name, place in self.places.items():
            value = model.graph.initializers[name]
            assert value.const_value is not None
            value.const_value = FileTensor(content, place, value.const_value)

    def fill(self, proto: onnx.ModelProto, content: Content) -> None:
        """Copy the weights into a copy of `self.proto`, in place."""
        for tensor in proto.graph.initializer:
            if tensor.name in self.places:
                place = self.places[tensor.name]
                data = bytearray(place.length)
                content.read_into(memoryview(data), place.offset)
                tensor.raw_data = bytes(data)


def outline_of(view: bytes | mmap.mmap) -> Outline | None:
    """The outline of a model; None when no weight is large, or when anything about its bytes is unusual."""
    try:
        kept, places = _without_weights(view)
        proto = onnx.ModelProto.FromString(b"".join(kept)) if places else onnx.ModelProto()
        _check(proto, places)
    except (ValueError, _UnusualError, DecodeError):
        return None
    return Outline(proto, places) if places else None


def _check(proto: onnx.ModelProto, places: dict[str, Place]) -> None:
    """Every place belongs to one initializer of its own, whose shape it fills."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name in places}
    if len(tensors) != len(places):
        raise _UnusualError
    for name, place in places.items():
        tensor = tensors[name]
        if tensor.data_type not in PLAIN or tensor.data_location or any(dim < 0 for dim in tensor.dims):
            raise _UnusualError
        if math.prod(tensor.dims) * bits_of(tensor.data_type) // 8 != place.length:
            raise _UnusualError


@dataclass(frozen=True)
class _Field:
    """One field of a message: where it starts, where its payload starts and where both end."""

    number: int
    kind: int
    start: int
    payload: int
    end: int


def _without_weights(view: bytes | mmap.mmap) -> tuple[list[bytes], dict[str, Place]]:
    """The bytes of the model with every large initializer's data emptied, and the places of that data."""
    kept: list[bytes] = []
    places: dict[str, Place] = {}
    for field in _fields(view, 0, len(view)):
        if field.number != _GRAPH or field.kind != _SIZED:
            kept.append(view[field.start : field.end])
            continue
        graph = _graph_without_weights(view, field, places)
        size = sum(len(piece) for piece in graph)
        kept += [_tag(_GRAPH), _varint(size), *graph]
    return kept, places


def _graph_without_weights(view: bytes | mmap.mmap, graph: _Field, places: dict[str, Place]) -> list[bytes]:
    kept: list[bytes] = []
    for field in _fields(view, graph.payload, graph.end):
        if field.number != _INITIALIZER or field.kind != _SIZED or field.end - field.payload <= LARGE:
            kept.append(view[field.start : field.end])
            continue
        inner = list(_fields(view, field.payload, field.end))
        raw = [entry for entry in inner if entry.number == _RAW_DATA]
        if len(raw) != 1 or raw[0].kind != _SIZED or raw[0].end - raw[0].payload <= LARGE:
            kept.append(view[field.start : field.end])
            continue
        rest = [view[entry.start : entry.end] for entry in inner if entry.number != _RAW_DATA]
        tensor = b"".join([*rest, _tag(_RAW_DATA), b"\0"])
        name = onnx.TensorProto.FromString(tensor).name
        if name in places:
            raise _UnusualError
        places[name] = Place(raw[0].payload, raw[0].end - raw[0].payload)
        kept += [_tag(_INITIALIZER), _varint(len(tensor)), tensor]
    return kept


def _fields(view: bytes | mmap.mmap, position: int, end: int) -> Iterator[_Field]:
    """The fields of the message in view[position:end].

    Raises:
        _UnusualError: a field does not fit, or is of a kind that ONNX does not use.
    """
    while position < end:
        start = position
        tag, position = _read_varint(view, position, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            payload = position
            _, position = _read_varint(view, position, end)
        elif kind == _SIZED:
            size, payload = _read_varint(view, position, end)
            position = payload + size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            payload = position
            position += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise _UnusualError
        if position > end or number == 0:
            raise _UnusualError
        yield _Field(number, kind, start, payload, position)


def _read_varint(view: bytes | mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise _UnusualError
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise _UnusualError


def _tag(number: int) -> bytes:
    return bytes([number << 3 | _SIZED])


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
