"""The inputs and outputs that an exported program states of itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.export import ExportedProgram

from ..records.record import TensorSpec

__all__ = ["program_interface"]


def program_interface(program: ExportedProgram) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs by the program's own names; two empty tuples where one is not a tensor.

    An open first axis is called "batch".
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    sides = [_specs(names, values) for names in (signature.user_inputs, signature.user_outputs)]
    return (sides[0], sides[1]) if all(sides) else ((), ())


def _specs(names: Sequence[object], values: dict[str, object]) -> tuple[TensorSpec, ...]:
    specs = []
    for name in names:
        value = values.get(str(name))
        if not isinstance(value, torch.Tensor):
            return ()
        sizes = (size if isinstance(size, int) else str(size) for size in value.shape[1:])
        batch = tuple(size if isinstance(size, int) else "batch" for size in value.shape[:1])
        specs.append(TensorSpec(str(name), str(value.dtype).removeprefix("torch."), (*batch, *sizes)))
    return tuple(specs)
