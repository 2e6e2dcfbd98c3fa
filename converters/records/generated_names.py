"""Which names of weights an exporter made up: `onnx::Conv_1047` and `val_16`, but not `conv2.0.conv1.conv.weight`."""

from __future__ import annotations

import re

__all__ = ["is_generated"]

_GENERATED = re.compile(
    r"^(onnx::|val_\d+|_val_\d+|(const_|Constant|constant|scalar)[^.]*$|.*/)|(_output_\d+|::\w+_\d+)$|^\d+$"
)


def is_generated(name: str) -> bool:
    """Whether an initializer's name was made up by an exporter rather than taken from the model."""
    return bool(_GENERATED.search(name))
