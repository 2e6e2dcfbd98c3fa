"""Which names of weights come from the model, and which an exporter or an optimiser made up."""

from __future__ import annotations

import re

__all__ = ["is_generated", "is_original"]

_GENERATED = re.compile(
    r"^(onnx::|val_\d+|_val_\d+|(const_|Constant|constant|scalar)[^.]*$|.*/)|(_output_\d+|::\w+_\d+)$|^\d+$"
)
_FOLDED = re.compile(
    r"^(_to_copy|cast|clone|expand|permute|reshape|select|slice|squeeze|t|transpose|unsqueeze|view)(_\d+)?$"
)
"""What dynamo calls the value of an operation; a simplifier that folds it leaves the name to the weight."""


def is_generated(name: str) -> bool:
    """Whether an initializer's name was made up by an exporter rather than taken from the model."""
    return bool(_GENERATED.search(name))


def is_original(name: str) -> bool:
    """Whether a weight has the name it had in the model, not that of an operation which was folded into it."""
    return bool(name) and not is_generated(name) and not _FOLDED.search(name)
