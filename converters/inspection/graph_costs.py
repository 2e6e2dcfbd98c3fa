"""Count the multiply-accumulates and activations of a forward pass, from inferred shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from ..graphs.graph_view import GraphView

__all__ = ["Costs", "graph_costs"]


@dataclass(frozen=True)
class Costs:
    """Costs per image; None where a shape they depend on is open."""

    macs: int | None
    activations: int | None
    """Total number of elements of all node outputs."""


def graph_costs(view: GraphView) -> Costs:
    """The costs of one image. Only Conv, ConvTranspose, Gemm and MatMul have multiply-accumulates.

    Raises:
        InputError: the shapes in the graph contradict each other.
    """
    products = [_MACS[node.op_type](view, node) for node in view.nodes if node.op_type in _MACS]
    sizes = [_elements(view, name) for node in view.nodes for name in node.output if name]
    first = view.dims(view.inputs[0].name) if view.inputs else None
    images = first[0] if first and first[0] else 1
    return Costs(*(None if total is None else total // images for total in (_sum(products), _sum(sizes))))


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _dims(view: GraphView, name: str) -> list[int] | None:
    dims = view.dims(name)
    known = [] if dims is None else [dim for dim in dims if dim is not None]
    return None if dims is None or len(known) < len(dims) else known


def _elements(view: GraphView, name: str) -> int | None:
    dims = _dims(view, name)
    return None if dims is None else math.prod(dims)


def _convolution(view: GraphView, node: onnx.NodeProto) -> int | None:
    weight, outputs = _dims(view, node.input[1]), _elements(view, node.output[0])
    return None if weight is None or outputs is None else outputs * math.prod(weight[1:])


def _transposed(view: GraphView, node: onnx.NodeProto) -> int | None:
    weight, inputs = _dims(view, node.input[1]), _elements(view, node.input[0])
    return None if weight is None or inputs is None else inputs * math.prod(weight[1:])


def _product(view: GraphView, node: onnx.NodeProto) -> int | None:
    left, outputs = _dims(view, node.input[0]), _elements(view, node.output[0])
    if not left or outputs is None:
        return None
    is_transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
    return outputs * (left[0] if is_transposed else left[-1])


_MACS: dict[str, Callable[[GraphView, onnx.NodeProto], int | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
}
