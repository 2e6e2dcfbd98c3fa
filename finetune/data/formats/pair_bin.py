"""Verification sets in insightface's `.bin`: a pickle of (encoded images, same-person flags), pair i = images 2i, 2i+1.

A pickle can run any code when it is loaded, and an array built from a hostile one can point anywhere in memory. So the
unpickler here builds lists, tuples, bytes and numbers only: where the file asks for an array, a stand-in collects type,
shape and bytes, which are checked and read afterwards. Anything else that the file asks for is refused.

A file needs only two bytes to name an object again, so an object that is named several times is never copied.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ....errors import DataError, InputError
from ..dataset import UNKNOWN_CAMERA, Dataset
from ..image_files import EncodedImages, printable
from ..numbered_names import NumberedNames

__all__ = ["open_pair_bin"]

_TYPES = frozenset({"b1", "?", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))})
"""Element types of the arrays that are read: booleans and integers."""

_MOST_REPEATED = 1000
"""How many times its own size a file's images may have, each counted as often as it is named: all pairs of a thousand
images still do."""
_EXHAUSTS = "cannot be read as a verification set: it is built to exhaust memory"


def open_pair_bin(path: Path) -> Dataset:
    """Read the pairs; identities are unknown, so every image has its own.

    Raises:
        InputError: the file is missing.
        DataError: it is not a pickle, asks for code, or holds something else.
    """
    try:
        pickled = path.read_bytes()
        content = _load(pickled)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as a verification set: {error}") from error
    except (MemoryError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: {_EXHAUSTS}") from error
    if not (isinstance(content, tuple | list) and len(content) == 2):
        raise DataError(f"{path}: expected a pair (images, flags), got {type(content).__name__}")
    try:
        images, same = _read_images(content[0], len(pickled)), _read_flags(content[1])
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    except MemoryError as error:
        raise DataError(f"{path}: {_EXHAUSTS}") from error
    if len(images) != 2 * len(same) or not same:
        raise DataError(f"{path}: expected two images per flag, got {len(images)} images and {len(same)} flags")
    count = len(images)
    numbers = np.arange(count, dtype=np.int64)
    flags = np.array(same, dtype=np.int64)
    return Dataset(
        name=printable(path),
        images=EncodedImages(count, images.__getitem__),
        identities=numbers,
        cameras=np.full(count, UNKNOWN_CAMERA, dtype=np.int64),
        names=NumberedNames(printable(path.name), numbers),
        pairs=np.concatenate([numbers.reshape(-1, 2), flags[:, None]], axis=1),
    )


def _read_images(value: object, size: int) -> list[bytes]:
    """The encoded images of a file of `size` bytes; those it names several times are one object.

    Raises:
        TypeError: they are not a list of byte strings or of arrays.
        ValueError: an array is not of bytes, or not what it claims, or images are named too often.
    """
    if not isinstance(value, tuple | list):
        raise TypeError(f"expected a list of encoded images, got {_kind(value)}")
    images: list[bytes] = []
    read: dict[int, bytes] = {}
    total = 0
    for number, image in enumerate(value):
        raw = _raw_image(number, image)
        total += len(raw)
        if total > _MOST_REPEATED * size:
            raise ValueError(f"its images have over {_MOST_REPEATED} times its own size: it names the same ones again")
        if id(raw) not in read:
            read[id(raw)] = bytes(raw)
        images.append(read[id(raw)])
    return images


def _raw_image(number: int, image: object) -> bytes | bytearray:
    """The bytes of an image, as the file holds them."""
    if isinstance(image, _Array):
        return image.raw("u1")
    if isinstance(image, bytes):
        return image
    raise TypeError(f"image {number}: expected the bytes of an image file, got {_kind(image)}")


def _read_flags(value: object) -> list[bool]:
    """One truth value per pair.

    Raises:
        TypeError: they are not a list or array of booleans or integers.
        ValueError: an array is not what it claims.
    """
    if isinstance(value, _Array):
        return [_read_flag(number, flag) for number, flag in enumerate(value.values())]
    if not isinstance(value, tuple | list):
        raise TypeError(f"expected a list of same-person flags, got {_kind(value)}")
    return [_read_flag(number, flag) for number, flag in enumerate(value)]


def _read_flag(number: int, flag: object) -> bool:
    values = flag.values() if isinstance(flag, _Array) else [flag]
    if len(values) != 1 or not isinstance(values[0], int | np.bool_ | np.integer):
        raise TypeError(f"flag {number}: expected true or false, got {_kind(flag)}")
    if values[0] not in (0, 1):
        raise ValueError(f"flag {number}: expected true or false, or 1 or 0, got {values[0]}")
    return bool(values[0])


def _kind(value: object) -> str:
    return "an array" if isinstance(value, _Array) else "nothing" if value is None else type(value).__name__


class _DataType:
    """Stands in for a NumPy element type."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any, *_: Any) -> None:
        self.order: Literal["<", ">", "="] = "="
        text = name.decode("latin1") if isinstance(name, bytes) else name
        if text not in _TYPES:
            raise pickle.UnpicklingError(
                f"it holds an array of type {str(text)[:20]!r}; only bytes and numbers are read"
            )
        self.name = text

    def __setstate__(self, state: Any) -> None:
        """Take the byte order, and refuse record types."""
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds an array of records; only bytes and numbers are read")
        self.order = ">" if state[1] in (">", b">") else "<" if state[1] in ("<", b"<") else "="


class _Array:
    """Stands in for a NumPy array or scalar: its type, shape and bytes as the file says them."""

    __slots__ = ("_raw", "_shape", "_type")

    def __init__(self, data_type: Any = None, shape: Any = (), raw: Any = None) -> None:
        self._type, self._shape, self._raw = data_type, shape, raw

    def __setstate__(self, state: Any) -> None:
        _, self._shape, self._type, _, self._raw = state

    def raw(self, name: str) -> bytes | bytearray:
        """The bytes of the array, which must have the type `name`, without a copy.

        Raises:
            TypeError: it was never filled.
            ValueError: it is of another type, or type, shape and bytes do not fit each other.
        """
        values = self.values()
        if values.dtype != np.dtype(name):
            raise ValueError(f"expected arrays of {name}, got {self._type.name}")
        raw: bytes | bytearray = self._raw
        return raw

    def values(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The array.

        Raises:
            TypeError: it was never filled.
            ValueError: type, shape and bytes do not fit each other.
        """
        if not isinstance(self._type, _DataType) or not isinstance(self._raw, bytes | bytearray):
            raise TypeError("it holds an array without type or content")
        shape = self._shape
        if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("it holds an array whose shape is not a tuple of lengths")
        values: np.ndarray[Any, np.dtype[Any]] = np.frombuffer(
            self._raw, dtype=np.dtype(self._type.name).newbyteorder(self._type.order)
        )
        if math.prod(shape) != len(values):
            raise ValueError(f"it holds an array of {len(values)} values that claims another shape")
        return values


def _reconstruct(*_: Any) -> _Array:
    """Stands in for NumPy's function that makes an empty array, whose state follows."""
    return _Array()


def _scalar(data_type: Any, raw: Any = None) -> _Array:
    return _Array(data_type, (), raw)


def _from_buffer(raw: Any, data_type: Any, shape: Any, *_: Any) -> _Array:
    """Stands in for NumPy's function of pickle protocol 5."""
    return _Array(data_type, shape, raw)


def _no_bytes() -> bytes:
    """Stands in for the call that Python 3 writes for empty bytes in old pickle protocols."""
    return b""


class _Call:
    """A function that the file may only call: not a class to subclass, without attributes to replace."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function; a verification set has no need to")


class _Named:
    """A class that the file may only name as an argument: it can be neither called nor changed."""

    __slots__ = ()


_ENCODE = ("_codecs", "encode")
_KNOWN: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _DataType,
}
"""Names that arrays and empty byte strings need, and what stands in for each; None: it may only be named."""


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, pickled: bytes) -> None:
        super().__init__(io.BytesIO(pickled), encoding="bytes")
        self._left = len(pickled)

    def find_class(self, module: str, name: str) -> Any:
        key = (module.replace("numpy.core", "numpy._core"), name)
        if key != _ENCODE and key not in _KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; a verification set needs no code, so this file is not trusted"
            )
        function = self._encode if key == _ENCODE else _KNOWN[key]
        return _Named() if function is None else _Call(function)

    def _encode(self, text: str, encoding: str) -> bytes:
        """The call that Python 3 writes for bytes in old pickle protocols; each text may be used once."""
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
        self._left -= len(text)
        if self._left < 0:
            raise pickle.UnpicklingError("it makes more bytes than it holds, of the same text again")
        return text.encode("latin1")


def _load(pickled: bytes) -> Any:
    """Unpickle into plain data and stand-ins."""
    for opcode, argument, _ in pickletools.genops(pickled):
        # The unpickler allocates memory for every number up to this one: 32 GB for the largest of 6 bytes.
        if opcode.name.endswith("PUT") and int(argument or 0) > len(pickled):
            raise pickle.UnpicklingError(f"it numbers an object {argument}, beyond its own length")
    return _DataUnpickler(pickled).load()
