"""The shape of every value of a graph, for costs: onnx's shape inference, then a walk where that is not enough.

1. onnx infers all shapes in one pass; where every one is known, that is all.
2. Otherwise the nodes are walked in order. Small tensors whose inputs are known (sizes read by Shape and computed with)
   are evaluated by onnx's reference evaluator; a node with an unknown shape is inferred again with these numbers.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["value_shapes"]

Shape = tuple[int | None, ...]

_MOST = 64
"""Elements of a tensor that may be sizes."""


def value_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Value -> its shape, None for an open size; values of unknown rank are left out. `model` has no large weights.

    Raises:
        InferenceError: the shapes contradict each other; damaged models raise other errors of onnx too.
    """
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph
    types = {value.name: value.type for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    types |= {t.name: helper.make_tensor_type_proto(t.data_type, list(t.dims)) for t in inferred.initializer}
    outputs = [name for node in inferred.node for name in node.output if name]
    if not all(_is_whole(types.get(name)) for name in outputs):
        _Walk(model, types).run()
    found = {name: _shape_of(type_) for name, type_ in types.items()}
    return {name: shape for name, shape in found.items() if shape is not None}


def _shape_of(type_: onnx.TypeProto) -> Shape | None:
    if not type_.tensor_type.HasField("shape"):
        return None
    dims = type_.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in dims)


def _is_whole(type_: onnx.TypeProto | None) -> bool:
    shape = None if type_ is None else _shape_of(type_)
    return shape is not None and None not in shape


class _Walk:
    """Rule 2; fills `types` in place."""

    def __init__(self, model: onnx.ModelProto, types: dict[str, onnx.TypeProto]) -> None:
        self.nodes, self.types = model.graph.node, types
        self.imports = list(model.opset_import)
        self.opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.numbers: dict[str, NDArray[np.generic]] = {}
        for tensor in model.graph.initializer:
            if math.prod(tensor.dims) <= _MOST:
                self._keep(tensor.name, numpy_helper.to_array(tensor))

    def run(self) -> None:
        for node in self.nodes:
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type in ("Shape", "Size"):
                self._size(node)
            elif all(name in self.numbers for name in node.input if name):
                self._evaluate(node)
            if not all(_is_whole(self.types.get(name)) for name in node.output if name):
                self._infer(node)

    def _keep(self, name: str, array: NDArray[np.generic]) -> None:
        if array.size <= _MOST and array.dtype.kind in "iubf":
            self.numbers[name] = array
            self.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    def _size(self, node: onnx.NodeProto) -> None:
        shape = _shape_of(self.types.get(node.input[0], onnx.TypeProto()))
        if shape is None:
            return
        bounds = {entry.name: entry.i for entry in node.attribute}
        part = shape[bounds.get("start", 0) : bounds.get("end", len(shape))]
        if None not in part:
            numbers = np.array(part, np.int64)
            self._keep(node.output[0], numbers if node.op_type == "Shape" else np.array(numbers.prod()))

    def _evaluate(self, node: onnx.NodeProto) -> None:
        from ..reference.evaluator import reference_evaluator

        feeds = {name: self.numbers[name] for name in node.input if name}
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name, type=onnx.TypeProto()) for name in node.output if name]
        graph = helper.make_graph([node], "numbers", inputs, outputs)
        model = helper.make_model(graph, opset_imports=self.imports, ir_version=10)
        try:
            results = reference_evaluator(model).run(None, feeds)
        except Exception:  # what cannot be evaluated stays unknown; the evaluator raises any type of error
            return
        for value, result in zip(outputs, results, strict=True):
            if isinstance(result, np.ndarray | np.generic):
                self._keep(value.name, np.asarray(result))

    def _infer(self, node: onnx.NodeProto) -> None:
        known = {name: self.types[name] for name in node.input if name in self.types}
        data = {name: numpy_helper.from_array(self.numbers[name], name) for name in node.input if name in self.numbers}
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets.get(node.domain, 1), "")
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, node, known, data, opset_imports=self.imports, ir_version=10
            )
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, KeyError, RuntimeError):
            return
        self.types.update(inferred)
