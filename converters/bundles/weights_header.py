"""The weights of a bundle by their names, types and shapes, from `weights.safetensors`, opened once; without torch.

The format: eight bytes with the length of a JSON object, the object (name -> dtype, shape and the two offsets of the
data), then the data, little-endian (https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import InputError
from ..files.torch_archives.special_files import refuse_special
from ..records.json_text import parse_json
from ..records.record import ParameterSource

__all__ = ["StoredTensor", "WeightsHeader"]

_LARGEST_HEADER = 100_000_000
"""Bytes, as the format's own reader has it."""
_BYTES = {"BOOL": 1, "I8": 1, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_BYTES |= {"F32": 4, "I32": 4, "U32": 4, "F64": 8, "I64": 8, "U64": 8}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor; `begin` is the offset of its data in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers, of any width."""
        return "F" in self.dtype

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class WeightsHeader:
    """The tensors of a file by name, while it is open."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    file: BinaryIO

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[WeightsHeader]:
        """Open the file and read its header; a weight is read where `source_data` asks for it.

        Raises:
            InputError: the file is missing, or is not as the format says.
        """
        refuse_special(path)
        try:
            file = path.open("rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error}); make the bundle again") from error
        with file:
            yield cls(path, _tensors(path, file), file)

    def source_data(self, name: str, source: ParameterSource) -> bytes | None:
        """The bytes of a tensor in the axes of the value that it was made from; None where there is no such tensor."""
        found = self.tensors.get(name)
        if found is None:
            return None
        width = _BYTES[found.dtype]
        self.file.seek(found.begin)
        data = self.file.read(found.elements * width)
        if source.transform != "transpose":
            return data
        return np.frombuffer(data, f"V{width}").reshape(found.shape).T.tobytes()


def _tensors(path: Path, file: BinaryIO) -> dict[str, StoredTensor]:
    try:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        stated = parse_json(file.read(length))
        stated.pop("__metadata__", None)
        return {name: _tensor(entry, 8 + length, size) for name, entry in stated.items()}
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the bundle again") from error


def _tensor(entry: Mapping[str, Any], data: int, size: int) -> StoredTensor:
    dtype, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise ValueError("a size or an offset is no natural number")
    if end - begin != math.prod(shape) * _BYTES[dtype] or data + end > size:
        raise ValueError(f"offsets {begin} and {end} do not fit {dtype} {list(shape)}")
    return StoredTensor(dtype, shape, data + begin)
