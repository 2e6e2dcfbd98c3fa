"""The inputs and outputs that a torch file of rtool states, under the names of the ONNX file it came from.

TorchScript states no shapes, and an exported program calls its inputs as Python needs. So `export` writes the names,
dtypes and shapes as JSON into the file, for whoever feeds it by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from ...errors import InputError
from .json_text import parse_json
from .record import TensorSpec

__all__ = ["INTERFACE_KEY", "interface_of", "interface_text"]

INTERFACE_KEY = "rtool.interface"

Interface = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def interface_text(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """The specs as JSON."""
    return json.dumps({"inputs": [asdict(spec) for spec in inputs], "outputs": [asdict(spec) for spec in outputs]})


def interface_of(text: str | None, label: str) -> Interface:
    """Inputs and outputs that a file states; two empty tuples where it states none.

    Raises:
        InputError: `text` is no such JSON.
    """
    if text is None:
        return (), ()
    try:
        content = parse_json(text)
        inputs, outputs = (tuple(_spec(entry) for entry in content[kind]) for kind in ("inputs", "outputs"))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{label}: its {INTERFACE_KEY} states no inputs and outputs ({error}); export it again"
        ) from error
    return inputs, outputs


def _spec(entry: dict[str, object]) -> TensorSpec:
    name, dtype, shape = entry["name"], entry["dtype"], entry["shape"]
    if not isinstance(name, str) or not isinstance(dtype, str) or not isinstance(shape, list):
        raise TypeError(f"found {str(entry)[:80]}")
    if not all(size is None or isinstance(size, str) or (type(size) is int and size > 0) for size in shape):
        raise ValueError(f"shape {str(shape)[:80]}")
    return TensorSpec(name, dtype, tuple(shape))
