"""Count the multiply-accumulates and activations of a forward pass, from inferred shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["Costs", "graph_costs"]


@dataclass(frozen=True)
class Costs:
    """Costs per image; None where a shape they depend on is dynamic."""

    macs: int | None
    activations: int | None
    """Total number of elements of all node outputs."""


def graph_costs(graph: ir.Graph) -> Costs:
    """The costs of a graph with inferred shapes; a dynamic batch counts as 1.

    Only Conv, ConvTranspose, Gemm and MatMul have multiply-accumulates.
    """
    products = [_MACS[node.op_type](node) for node in graph if node.op_type in _MACS]
    sizes = [_elements(value) for node in graph for value in node.outputs if value.name]
    return Costs(_sum(products), _sum(sizes))


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _dims(value: ir.Value | None) -> list[int] | None:
    """The dimensions of a value; a dynamic first one is the batch and counts as 1."""
    if value is None or value.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else 1 if axis == 0 else None for axis, dim in enumerate(value.shape)]
    known = [dim for dim in dims if dim is not None]
    return known if len(known) == len(dims) else None


def _elements(value: ir.Value | None) -> int | None:
    dims = _dims(value)
    return None if dims is None else math.prod(dims)


def _convolution(node: ir.Node) -> int | None:
    weight, outputs = _dims(node.inputs[1]), _elements(node.outputs[0])
    return None if weight is None or outputs is None else outputs * math.prod(weight[1:])


def _transposed(node: ir.Node) -> int | None:
    weight, inputs = _dims(node.inputs[1]), _elements(node.inputs[0])
    return None if weight is None or inputs is None else inputs * math.prod(weight[1:])


def _product(node: ir.Node) -> int | None:
    left, outputs = _dims(node.inputs[0]), _elements(node.outputs[0])
    if left is None or outputs is None or not left:
        return None
    transposed = node.attributes.get("transA")
    return outputs * (left[0] if transposed is not None and transposed.as_int() else left[-1])


_MACS: dict[str, Callable[[ir.Node], int | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
}
