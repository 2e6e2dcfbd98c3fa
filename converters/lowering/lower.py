"""Lower every node of a graph in canonical form into an fx graph, in one walk.

A node whose inputs are all known numbers is computed at once. Nodes that cannot be lowered are collected, so that one
error lists all of them; nodes that depend on such a node are only checked for a row in the registry.
"""

from __future__ import annotations

import keyword
from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir
from torch import fx

from ...errors import InputError, UnsupportedNode, UnsupportedOperatorsError
from ..passes.constants.constant_folding import FIXED_KEY, LITERAL_KEY, evaluate
from ..passes.constants.generated_constants import GENERATED_KEY, is_generated
from ..passes.shape_inference import infer_node
from . import families
from .graph_builder import GraphBuilder, Weight
from .open_shapes import finer_shape, is_settled, open_shape
from .operation import Environment, Op, RefusedError
from .registry import REGISTRY, Lowering
from .schema_check import schema_problem
from .shape_numbers import on_shape_numbers
from .values import Integers, torch_dtype

__all__ = ["lower"]

families.load()

_CALLED_BY_CODE = frozenset(
    {
        *("self", "torch", "nn", "F", "Tensor", "List", "operator", "math", "device", "inf", "nan", "NoneType"),
        *("getattr", "int", "float", "len", "max", "min", "tuple"),
    }
)
"""Names that generated code refers to; an argument with such a name would hide them."""


def lower(model: ir.Model, label: str) -> GraphBuilder:
    """The fx graph and module tree of a model in canonical form with inferred shapes.

    `label` names the source in errors.

    Raises:
        InputError: a graph input is not a tensor.
        UnsupportedOperatorsError: some nodes cannot be converted exactly; lists all of them.
    """
    walk = _Walk(model, label)
    walk.inputs()
    for node in model.graph:
        walk.node(node)
    if walk.refused:
        raise UnsupportedOperatorsError(label, walk.refused)
    walk.outputs()
    return walk.builder


class _Walk:
    def __init__(self, model: ir.Model, label: str) -> None:
        self.model = model
        self.label = label
        self.builder = GraphBuilder()
        self.environment: Environment = {}
        self.refused: list[UnsupportedNode] = []
        self._unknown: set[ir.Value] = set()

    def inputs(self) -> None:
        """One argument per graph input, in graph order; those behind the last that is read may be left out."""
        used: set[str] = set()
        values = list(self.model.graph.inputs)
        read = [index for index, value in enumerate(values) if value.uses() or value.is_graph_output()]
        needed = max(read, default=-1) + 1
        for index, value in enumerate(values):
            name = _argument_name(value.name or "input", used)
            used.add(name)
            placeholder = self.builder.graph.placeholder
            self.environment[value] = placeholder(name) if index < needed else placeholder(name, default_value=None)
            if torch_dtype(value.dtype) is None:
                kind = value.dtype.name if value.dtype is not None else str(value.type)
                raise InputError(f"{self.label}: graph input '{value.name}' is {kind}; only tensors can be converted")

    def node(self, node: ir.Node) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        opset = node.version or self.model.graph.opset_imports.get(node.domain, 1)
        row = REGISTRY.find(node.op_type, opset, domain)
        if isinstance(row, str):
            self._refuse(node, opset, row)
            return
        problem = schema_problem(node, opset)
        if problem is not None:
            self._refuse(node, opset, problem)
            return
        if any(value in self._unknown for value in node.inputs if value is not None):
            self._unknown.update(node.outputs)
            return
        self._infer(node)
        op = Op(node, opset, self.builder, self.environment, self.node)
        if not self._compute_now(op):
            self._lower(op, row)

    def _infer(self, node: ir.Node) -> None:
        """Infer shapes that depend on numbers which became known during the walk."""
        before = [value.shape for value in node.outputs]
        if all(is_settled(shape) for shape in before):
            return
        known = {}
        for value in node.inputs:
            numbers = None if value is None else self.environment.get(value)
            if value is not None and isinstance(numbers, Integers) and numbers.static is not None:
                known[value.name or ""] = numbers.static
        infer_node(node, known, self.model.graph.opset_imports)
        for value, shape in zip(node.outputs, before, strict=True):
            value.shape = finer_shape(value.shape, shape)
        if node.domain in ("", "ai.onnx") and node.outputs:
            node.outputs[0].shape = finer_shape(node.outputs[0].shape, open_shape(node, self._integers))

    def _integers(self, value: ir.Value) -> Integers | None:
        numbers = self.environment.get(value)
        return numbers if isinstance(numbers, Integers) else None

    def _lower(self, op: Op, row: Lowering) -> None:
        try:
            known = on_shape_numbers(op)
            lowered = row.function(op) if known is None else known
        except RefusedError as refused:
            self._refuse(op.node, op.opset, str(refused))
            return
        results = lowered if isinstance(lowered, Sequence) else (lowered,)
        for value, result in zip(op.node.outputs, results, strict=False):
            if result is not None:
                self.environment[value] = result
        for index, value in enumerate(op.node.outputs):
            if value not in self.environment and op.uses_output(index):
                self._refuse(op.node, op.opset, f"output {index} ('{value.name}') is used but not supported")

    def _compute_now(self, op: Op) -> bool:
        """Compute a node whose inputs are all known numbers; whether it was one."""
        node = op.node
        if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
            return False
        if not node.inputs or not all(v is None or self._is_literal(v) for v in node.inputs):
            return False
        arrays = [None if v is None else op.constant(i) for i, v in enumerate(node.inputs)]
        if any(array is None for array, v in zip(arrays, node.inputs, strict=True) if v is not None):
            return False
        outputs = [value for value in node.outputs if value.name]
        made_up = is_generated(node, lambda value: isinstance(self.environment.get(value), Integers))
        for value, array in zip(outputs, evaluate(node, arrays, dict(self.model.graph.opset_imports)), strict=True):
            if array.dtype == np.int64 and array.ndim <= 1:
                items = tuple(int(item) for item in array.reshape(-1))
                self.environment[value] = Integers(items, scalar=array.ndim == 0)
            else:
                value.const_value = ir.tensor(array)
                value.meta[LITERAL_KEY] = True
                if made_up:
                    value.meta[GENERATED_KEY] = value.meta[FIXED_KEY] = True
        return True

    def _is_literal(self, value: ir.Value) -> bool:
        return isinstance(self.environment.get(value), Integers) or bool(value.meta.get(LITERAL_KEY))

    def _refuse(self, node: ir.Node, opset: int, reason: str) -> None:
        name = node.name or (node.outputs[0].name if node.outputs else None) or "?"
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        self.refused.append(UnsupportedNode(name, operator, opset, reason))
        self._unknown.update(node.outputs)

    def outputs(self) -> None:
        results = [self._output(value) for value in self.model.graph.outputs]
        self.builder.graph.output(results[0] if len(results) == 1 else tuple(results))
        self.builder.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))

    def _output(self, value: ir.Value) -> fx.Node:
        known = self.environment.get(value)
        if isinstance(known, fx.Node):
            return known
        source = value.producer() or ir.Node("", "Identity", inputs=[value], name=value.name)
        op = Op(ir.Node("", "Identity", inputs=[value], name=source.name), 1, self.builder, self.environment)
        if known is None:
            return self.builder.attribute(Weight(value), op.node, trainable=op.is_float(0))
        return op.x(0)


def _argument_name(name: str, used: Collection[str]) -> str:
    """A valid argument name, close to that of the graph input and not in `used`."""
    cleaned = "".join(c if c.isalnum() and c.isascii() else "_" for c in name).strip("_") or "input"
    if cleaned[0].isdigit():
        cleaned = f"input_{cleaned}"
    if keyword.iskeyword(cleaned) or cleaned in _CALLED_BY_CODE:
        cleaned += "_"
    free, number = cleaned, 1
    while free in used:
        number += 1
        free = f"{cleaned}_{number}"
    return free
