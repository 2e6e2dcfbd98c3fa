"""NumPy's `.npy` and `.npz` files: plain numbers only, and never more of them than the file holds.

`np.load(allow_pickle=False)` unpickles nothing, but makes room for whatever shape a header states before it reads, and
an `.npz` may be packed a thousandfold. So headers are compared with the bytes behind them first. The format: NumPy
Enhancement Proposal 1.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from numpy.lib import format as npy
from numpy.typing import NDArray

from ...errors import InputError

__all__ = ["read_arrays"]

_MOST_BYTES = 1 << 32
_PACKED = 1100
"""How many times deflate shortens at most, about: 1032."""


def read_arrays(path: Path, *, most_bytes: int = _MOST_BYTES) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The array of a `.npy` file, or the arrays of a `.npz` file by name, `most_bytes` in all at most.

    Raises:
        InputError: the file is missing, damaged, or holds anything but plain arrays.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                file.seek(0)
                return _read(file, path.stat().st_size)
            with zipfile.ZipFile(file) as archive:
                return _members(archive, path.stat().st_size, most_bytes)
    except (OSError, ValueError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(f"{path}: expected a .npy or .npz file of plain arrays ({error})") from error
    except (RuntimeError, MemoryError, TypeError) as error:
        raise InputError(f"{path}: expected a .npy or .npz file of plain arrays, got one that is damaged") from error


def _members(archive: zipfile.ZipFile, length: int, most_bytes: int) -> dict[str, NDArray[Any]]:
    entries = archive.infolist()
    names = [entry.filename.removesuffix(".npy") for entry in entries]
    if len(set(names)) != len(names):
        raise ValueError("a name is in it twice")
    total = sum(entry.file_size for entry in entries)
    if total > min(most_bytes, _PACKED * length):
        raise ValueError(f"it unpacks to {total} bytes")
    found = {}
    for name, entry in zip(names, entries, strict=True):
        content = archive.read(entry)
        found[name] = _read(io.BytesIO(content), len(content))
    return found


def _read(file: BinaryIO, length: int) -> NDArray[Any]:
    start = file.tell()
    major = npy.read_magic(file)[0]
    if major not in (1, 2):
        raise ValueError(f"version {major} of the format")
    header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    shape, _, data_type = header(file)
    if data_type.hasobject or data_type.names is not None:
        raise ValueError("it holds Python objects or records, expected numbers")
    if any(size < 0 for size in shape) or math.prod(shape) * data_type.itemsize > length:
        raise ValueError(f"its header states the shape {shape[:8]}, the file has {length} bytes")
    file.seek(start)
    return npy.read_array(file, allow_pickle=False)
