"""Find the preprocessing a model expects: stated in the file's metadata, else guessed from the shape of its input.

A guess is marked (`is_guess`) and never replaces what the user stated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import InputError
from .json_text import parse_json
from .preprocessing import ARCFACE, IMAGENET, Preprocessing
from .record import TensorSpec

__all__ = ["METADATA_KEY", "PREPROCESSINGS", "FoundPreprocessing", "describe", "find_preprocessing"]

METADATA_KEY = "rtool.preprocessing"
"""Key of an ONNX model's metadata that holds a preprocessing as JSON."""

PREPROCESSINGS: Mapping[str, Preprocessing] = {"imagenet": IMAGENET, "arcface": ARCFACE}
"""The names that `--preprocessing` accepts."""


@dataclass(frozen=True)
class FoundPreprocessing:
    """A preprocessing and its origin in words, e.g. "stated in the file"."""

    preprocessing: Preprocessing
    origin: str
    is_guess: bool = False


def find_preprocessing(inputs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> FoundPreprocessing | None:
    """The preprocessing stated in `metadata`, else a guess where the model has one image input, else None.

    Raises:
        InputError: the metadata entry is not a preprocessing as JSON.
    """
    stated = metadata.get(METADATA_KEY)
    if stated is not None:
        try:
            return FoundPreprocessing(Preprocessing.from_dict(parse_json(stated)), "stated in the file")
        except ValueError as error:
            raise InputError(f"metadata {METADATA_KEY}: not JSON ({error}); re-export the model") from error
    return _guess(inputs)


def _guess(inputs: Sequence[TensorSpec]) -> FoundPreprocessing | None:
    images = [spec for spec in inputs if len(spec.shape) == 4]
    if len(images) != 1 or images[0].dtype not in ("float32", "float16", "bfloat16"):
        return None
    _, channels, height, width = images[0].shape
    if channels != 3 or not isinstance(height, int) or not isinstance(width, int):
        return None
    if height == width == 112:
        return FoundPreprocessing(ARCFACE, "guessed: 112x112 is an aligned face", is_guess=True)
    sized = replace(IMAGENET, height=height, width=width)
    kind = "a person crop" if height > width else "an image"
    return FoundPreprocessing(sized, f"guessed: {height}x{width} is {kind} with ImageNet statistics", is_guess=True)


def describe(preprocessing: Preprocessing | None, origin: str | None) -> str:
    """The preprocessing and its origin as one line for a table."""
    if preprocessing is None:
        return origin or "unknown; state it with --preprocessing"
    size = f"{preprocessing.height}x{preprocessing.width} {preprocessing.channel_order}"
    return f"{size}, mean {list(preprocessing.mean)}, std {list(preprocessing.std)} ({origin})"
