"""Which inputs of an example may move a little, and by how much: for gradients, and for rounding errors."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from .example import Example

__all__ = ["held_inputs", "moved"]

_DIFFERENTIABLE = {"AffineGrid": {0}, "DFT": {0}, "GridSample": {1}, "OneHot": {2}, "STFT": {0, 2}}
"""Inputs that ONNX declares not differentiable, and that a module passes gradients to."""
_HELD = {"BatchNormalization": {3, 4}, "Range": {0, 1, 2}, "Upsample": {1}}
"""Other inputs without a gradient: running statistics, which torch has none for, and what decides sizes."""


def moved(tensor: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """A float64 tensor with each finite element moved by at most `amount` of its size, or of one if it is smaller."""
    shift = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return torch.where(torch.isfinite(tensor), tensor + amount * shift * tensor.abs().clamp(min=1), tensor)


def held_inputs(example: Example) -> set[str]:
    """Names of the inputs that stay as they are: what ONNX declares not differentiable, such as scales and sizes."""
    node = example.node
    try:
        schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    except onnx.defs.SchemaError:
        return set()
    known = schema.inputs
    no = onnx.defs.OpSchema.DifferentiationCategory.NonDifferentiable
    declared = {
        index for index in range(len(node.input)) if known[min(index, len(known) - 1)].differentiation_category == no
    }
    held = (declared - _DIFFERENTIABLE.get(node.op_type, set())) | _HELD.get(node.op_type, set())
    return {node.input[index] for index in held}
