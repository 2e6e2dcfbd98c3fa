"""A graph as `inspect` looks at it: protobuf messages with functions inlined, constants known and shapes inferred.

1. Calls of functions are inlined, by onnx's own inliner.
2. A constant is an initializer, the value of a Constant node, or what nodes compute from constants alone.
3. A node counts where the graph's outputs depend on it and its result is not a constant.
4. Shapes are inferred by onnx on a copy without large weights; shapes that the file states are ignored, except those of
   inputs: files whose batch was edited often state stale ones. An open batch counts as 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
import onnx.inliner

from ..files.element_types import bits_of, numpy_name_of
from ..operators.refusals import inlining_refused, shapes_contradict
from ..operators.support import plain_domain
from ..records.record import Dim, TensorSpec
from .value_shapes import value_shapes

__all__ = ["GraphView", "tensor_specs_of"]

_SMALL = 2048
"""Bytes; constants up to this size may be shapes and take part in inference."""
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True)
class GraphView:
    """The main graph of a model; `label` names it in errors."""

    proto: onnx.ModelProto
    label: str

    @classmethod
    def of(cls, proto: onnx.ModelProto, label: str) -> GraphView:
        """The view of a model, which is not changed.

        Raises:
            InputError: its functions cannot be inlined.
        """
        if not proto.functions:
            return cls(proto, label)
        try:
            return cls(onnx.inliner.inline_local_functions(proto), label)
        except Exception as error:  # the inliner reports damage with any type of error
            raise inlining_refused(label, error) from error

    @property
    def inputs(self) -> tuple[onnx.ValueInfoProto, ...]:
        """The graph's inputs, without the initializers that old files list among them."""
        stored = {tensor.name for tensor in self.proto.graph.initializer}
        return tuple(value for value in self.proto.graph.input if value.name not in stored)

    @cached_property
    def opsets(self) -> Mapping[str, int]:
        """Opset by domain, in which ONNX's own is ""."""
        return {plain_domain(entry.domain): entry.version for entry in self.proto.opset_import}

    @cached_property
    def stored(self) -> Mapping[str, onnx.TensorProto]:
        """The tensors of the main graph by value: initializers, and Constants with a tensor."""
        found = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        for node in self.proto.graph.node:
            if node.op_type == "Constant" and node.output:
                tensor = next((entry.t for entry in node.attribute if entry.name == "value"), None)
                if tensor is not None:
                    found[node.output[0]] = tensor
        return found

    @cached_property
    def constants(self) -> frozenset[str]:
        """The names of all constants, rule 2."""
        known = {tensor.name for tensor in self.proto.graph.initializer}
        for node in self.proto.graph.node:
            if _may_fold(node) and all(name in known for name in node.input if name):
                known.update(node.output)
        return frozenset(known)

    @cached_property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """The nodes that count, rule 3, in order."""
        needed = {value.name for value in self.proto.graph.output}
        live: list[onnx.NodeProto] = []
        for node in reversed(self.proto.graph.node):
            if any(name in needed for name in node.output):
                needed.update(_reads(node))
                if not all(name in self.constants for name in node.output if name):
                    live.append(node)
        return tuple(reversed(live))

    @cached_property
    def read_values(self) -> frozenset[str]:
        """The names of the values that a node, or an output of the graph, reads."""
        read = {value.name for value in self.proto.graph.output}
        for node in self.proto.graph.node:
            read.update(_reads(node))
        return frozenset(read)

    def origin(self, name: str) -> str:
        """The stored tensor that a constant was made from: the first input of the nodes that prepare it."""
        producers = self.producers
        while name not in self.stored and name in self.constants and name in producers:
            inputs = [entry for entry in producers[name].input if entry]
            if not inputs:
                break
            name = inputs[0]
        return name

    def dims(self, name: str) -> tuple[int | None, ...] | None:
        """The shape of a value; None where its rank is unknown, and for a size that is open."""
        if name in self.stored:
            return tuple(self.stored[name].dims)
        return self._shapes.get(name)

    @cached_property
    def producers(self) -> Mapping[str, onnx.NodeProto]:
        """The node that makes each value."""
        return {name: node for node in self.proto.graph.node for name in node.output if name}

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        try:
            return value_shapes(self._skeleton())
        except Exception as error:  # inference reports damage with any type of error
            raise shapes_contradict(self.label, error) from error

    def _skeleton(self) -> onnx.ModelProto:
        """The model without large weights, whose shapes become those of inputs; rule 4."""
        source = self.proto.graph
        graph = onnx.GraphProto(name="skeleton")
        for value in self.inputs:
            graph.input.add().CopyFrom(value)
            dims = graph.input[-1].type.tensor_type.shape.dim
            if len(dims) and dims[0].dim_value < 1:
                dims[0].dim_value = 1
        for tensor in source.initializer:
            if bits_of(tensor.data_type) * _elements(tensor) <= 8 * _SMALL and tensor.data_type != tensor.STRING:
                graph.initializer.add().CopyFrom(tensor)
            else:
                graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        graph.node.extend(source.node)
        graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in source.output)
        return onnx.helper.make_model(graph, opset_imports=self.proto.opset_import, ir_version=10)


def tensor_specs_of(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Names, NumPy dtypes and shapes of graph inputs or outputs; an unknown dtype counts as float32."""
    return tuple(
        TensorSpec(value.name, numpy_name_of(value.type.tensor_type.elem_type or onnx.TensorProto.FLOAT), _dims(value))
        for value in values
    )


def _dims(value: onnx.ValueInfoProto) -> tuple[Dim, ...]:
    """A number, a symbol's name, or None; a negative number is how some exporters write an open size."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else (dim.dim_param or None)
        for dim in value.type.tensor_type.shape.dim
    )


def _elements(tensor: onnx.TensorProto) -> int:
    product = 1
    for dim in tensor.dims:
        product *= dim
    return product


def _may_fold(node: onnx.NodeProto) -> bool:
    """Whether a node whose inputs are constants is one."""
    if plain_domain(node.domain) != "" or node.op_type in _RANDOM:
        return False
    if any(entry.HasField("g") or entry.graphs for entry in node.attribute):
        return False
    return node.op_type == "Constant" or any(node.input)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, with those that graphs inside it read from outside."""
    yield from node.input
    pending = [entry.g for entry in node.attribute if entry.HasField("g")]
    pending += [graph for entry in node.attribute for graph in entry.graphs]
    while pending:  # not a recursion: graphs may be nested deeper than Python's stack
        graph = pending.pop()
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from inner.input
            pending += [entry.g for entry in inner.attribute if entry.HasField("g")]
            pending += [nested for entry in inner.attribute for nested in entry.graphs]
