"""Verification sets in insightface's `.bin`: a pickle of (encoded images, same-person flags), pair i = images 2i, 2i+1.

A pickle can run any code when it is loaded. This one is loaded by an unpickler that builds lists, tuples, bytes,
numbers and NumPy arrays of them, and refuses to look up anything else.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, InputError
from .dataset import UNKNOWN_CAMERA, Dataset
from .encoded import EncodedImages

__all__ = ["open_pair_bin"]


def open_pair_bin(path: Path) -> Dataset:
    """Read the pairs; identities are unknown, so every image has its own.

    Raises:
        InputError: the file is missing.
        DataError: it is no pickle, asks for code, or has another content.
    """
    try:
        with path.open("rb") as file:
            content = _DataUnpickler(file, encoding="bytes").load()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as a verification set: {error}") from error
    if not (isinstance(content, tuple | list) and len(content) == 2):
        raise DataError(f"{path}: expected a pair (images, flags), got {type(content).__name__}")
    images, same = list(content[0]), [bool(flag) for flag in content[1]]
    if len(images) != 2 * len(same) or not same:
        raise DataError(f"{path}: expected two images a flag, got {len(images)} images and {len(same)} flags")
    count = len(images)
    numbers = np.arange(count, dtype=np.int64).reshape(-1, 2)
    return Dataset(
        name=str(path),
        images=EncodedImages(count, lambda index: _as_bytes(images[index])),
        identities=np.arange(count, dtype=np.int64),
        cameras=np.full(count, UNKNOWN_CAMERA, dtype=np.int64),
        names=tuple(f"{path.name}:{index}" for index in range(count)),
        pairs=np.concatenate([numbers, np.array(same, dtype=np.int64)[:, None]], axis=1),
    )


class _DataUnpickler(pickle.Unpickler):
    """Finds what arrays and old byte strings need, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module.replace("numpy.core", "numpy._core"), name))
        if allowed is None:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}; a verification set needs no code, so this file is not trusted"
            )
        return allowed


def _encode(text: str, encoding: str) -> bytes:
    """What Python 3 writes for bytes in old pickle protocols."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def _as_bytes(image: bytes | NDArray[np.uint8]) -> bytes:
    return image if isinstance(image, bytes) else np.asarray(image).tobytes()
