"""Prepare a float32 graph for its conversion to fp16 or bf16.

1. Every node gets a name; existing names are never changed, because `keep` lists refer to them.
2. Calls of functions are inlined.
3. Identity nodes are removed, except at graph outputs.
4. Float Constants become initializers.
5. Nodes whose inputs are all weights (a transposed matrix, a weight norm) are computed, so that the file stores the
   result in 16 bits instead of the inputs in 32; not where that makes the file larger.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from ..passes.constants.constant_folding import constant_tensor, evaluate
from ..passes.identities import drop_identities
from .half_rules import is_control_flow

__all__ = ["prepare_for_half"]

_FLOATS = ("value", "value_float", "value_floats")
_NEVER_FOLDED = frozenset(
    {"Bernoulli", "Constant", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_HALF_BYTES = 2
_SMALL = 1024
"""Bytes; a computed weight up to this size is stored even if its inputs are smaller."""


def prepare_for_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` that computes the same; preparing a prepared model changes nothing."""
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    _name_nodes(graph)
    if graph.functions:
        InlinePass()(graph)
    drop_identities(graph)
    for part in (graph.graph, *graph.graph.subgraphs()):
        _store_float_constants(part)
    _fold_weights(graph)
    return ir.to_proto(graph)


def _name_nodes(model: ir.Model) -> None:
    """Name the nodes without a name, so that lists and reports can refer to them."""
    nodes = [
        *model.graph.all_nodes(),
        *(node for function in model.functions.values() for node in function.all_nodes()),
    ]
    used = {node.name for node in nodes}
    for index, node in enumerate(nodes):
        if not node.name:
            name = f"{node.op_type}_{index}"
            while name in used:
                name += "_"
            node.name = name
            used.add(name)


def _store_float_constants(graph: ir.Graph) -> None:
    for node in list(graph):
        if node.op_type != "Constant" or node.outputs[0].is_graph_output():
            continue
        if not any(name in node.attributes for name in _FLOATS):
            continue
        tensor = constant_tensor(node)
        if tensor.dtype == ir.DataType.FLOAT:
            _replace(graph, node.outputs[0], tensor)
            graph.remove(node, safe=True)


def _fold_weights(model: ir.Model) -> None:
    """Rule 5."""
    graph = model.graph
    for node in list(graph):
        arrays = _constant_inputs(node)
        if arrays is None or any(value.is_graph_output() for value in node.outputs):
            continue
        if _size_in_half(node) > max(_SMALL, sum(array.nbytes for array in arrays if array is not None)):
            continue
        try:
            results = evaluate(node, arrays, graph.opset_imports)
        except Exception:  # the evaluator raises any type of error; the node then stays
            continue
        sources = [value for value in node.inputs if value is not None]
        for value, result in zip(node.outputs, results, strict=False):
            _replace(graph, value, ir.tensor(result))
        graph.remove(node, safe=True)
        for value in sources:
            if value.is_initializer() and not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                graph.initializers.pop(value.name or "", None)


def _constant_inputs(node: ir.Node) -> list[NDArray[Any] | None] | None:
    """The inputs of a node whose inputs are all constants; None for any other node."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _NEVER_FOLDED or not node.inputs:
        return None
    if is_control_flow(node):
        return None
    arrays: list[NDArray[Any] | None] = []
    for value in node.inputs:
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        if value is not None and (tensor is None or value.is_graph_input()):
            return None
        arrays.append(None if tensor is None else np.asarray(tensor.numpy()))
    return arrays


def _size_in_half(node: ir.Node) -> float:
    """Bytes of the outputs in 16 bits; infinite where a shape is unknown."""
    size = 0.0
    for value in node.outputs:
        dims = None if value.shape is None else list(value.shape)
        if dims is None or value.dtype is None or not all(isinstance(dim, int) for dim in dims):
            return float("inf")
        width = _HALF_BYTES if value.dtype == ir.DataType.FLOAT else value.dtype.itemsize
        size += int(np.prod([int(dim) for dim in dims])) * width  # type: ignore[arg-type]
    return size


def _replace(graph: ir.Graph, old: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Replace a node's output by an initializer of the same name."""
    new = ir.Value(name=old.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)  # type: ignore[arg-type]
    old.replace_all_uses_with(new)
    old.name = f"{old.name}_replaced"
    graph.register_initializer(new)
