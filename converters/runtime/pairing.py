"""Which input or output of one model is which of another: by name, never by position where both state names.

Exporters and servers may list the same tensors in another order. A torch program calls an input `a_b` that its ONNX
file calls `a/b`, so names are also compared as Python writes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ...errors import InputError
from ..records.record import TensorSpec

__all__ = ["in_order_of"]


def in_order_of(
    arrays: Sequence[NDArray[Any]], given: Sequence[TensorSpec], wanted: Sequence[TensorSpec], label: str, kind: str
) -> list[NDArray[Any]]:
    """`arrays`, which `given` names, in the order of `wanted`.

    One tensor on both sides is the same one, whatever its name; where a side states no names, the order is kept.

    Args:
        arrays: one per entry of `given`.
        given: of the model that the arrays belong to; may be empty.
        wanted: of the other model; may be empty.
        label: names the other model in messages.
        kind: "input" or "output".

    Raises:
        InputError: the two models have other names, or another number of tensors.
    """
    if not given or not wanted:
        return list(arrays)
    ours, theirs = [spec.name for spec in given], [spec.name for spec in wanted]
    if len(ours) == len(theirs) == 1 or ours == theirs:
        return list(arrays)
    for form in (str, _as_identifier):
        known, asked = [form(name) for name in ours], [form(name) for name in theirs]
        if len(set(known)) == len(known) and sorted(known) == sorted(asked):
            return [arrays[known.index(name)] for name in asked]
    raise InputError(
        f"{label}: has the {kind}s {', '.join(theirs)}, the other model has {', '.join(ours)}; they are paired by "
        "name, so export both with the same names"
    )


def _as_identifier(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)
