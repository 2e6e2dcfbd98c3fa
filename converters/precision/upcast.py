"""A model in float16 or bfloat16 as one in float32, from which training can start.

Every 16-bit value is exactly a float32, so no weight changes. The results do: what was rounded after every node no
longer is. `CameIn` remembers the 16 bits that a model came in as a link of its chain, so that an export can go back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, numpy_helper

from ..files.model_file import ModelFile
from ..records.provenance import ChainLink
from .half import HalfType

__all__ = ["CameIn", "came_in", "half_type", "upcast"]

_HALF: dict[int, HalfType] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
_STEP = "upcast"


@dataclass(frozen=True)
class CameIn:
    """The 16 bits that a model came in."""

    dtype: HalfType
    io: bool
    """Whether its inputs and outputs are 16-bit too."""

    @property
    def link(self) -> ChainLink:
        """The link of the chain that remembers it."""
        where = "weights, inputs and outputs" if self.io else "weights"
        return ChainLink(_STEP, f"{where} {self.dtype} -> float32, exactly", {"from": self.dtype, "io": self.io})


def came_in(chain: Sequence[ChainLink]) -> CameIn | None:
    """What the chain of a model remembers of its 16 bits; None for a model that came in float32."""
    facts = next((link.facts for link in reversed(chain) if link.step == _STEP), {})
    dtype = next((name for name in _HALF.values() if facts.get("from") == name), None)
    return None if dtype is None else CameIn(dtype, facts.get("io") is True)


def half_type(proto: onnx.ModelProto) -> CameIn | None:
    """In which 16-bit type `proto` computes with its float weights; None where it does not. The bytes are not read.

    A weight that only a Cast reads is stored small, and computed with in the type of the Cast. Of both types, the one
    of more tensors; inputs and outputs count as 16-bit where one is of that type.
    """
    read = {name for node in _nodes(proto) if node.op_type != "Cast" for name in node.input}
    kinds = [tensor.data_type for graph in _graphs(proto) for tensor in graph.initializer if tensor.name in read]
    for node in _nodes(proto):
        if node.op_type == "Constant" and read.intersection(node.output):
            kinds += [attribute.t.data_type for attribute in node.attribute if attribute.HasField("t")]
    stored = Counter(kind for kind in kinds if kind in _HALF)
    if not stored:
        return None
    chosen = stored.most_common(1)[0][0]
    weights = {tensor.name for tensor in proto.graph.initializer}
    values = (value for value in (*proto.graph.input, *proto.graph.output) if value.name not in weights)
    return CameIn(_HALF[chosen], any(value.type.tensor_type.elem_type == chosen for value in values))


def upcast(file: ModelFile) -> ModelFile:
    """`file` in memory with every 16-bit float as float32: weights, constants, inputs, outputs and Casts.

    Raises:
        InputError: as `ModelFile.proto`.
    """
    proto = file.proto()
    for tensor in _tensors(proto):
        if tensor.data_type in _HALF:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(array).astype(np.float32), tensor.name))
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _HALF:
                attribute.i = int(ir.DataType.FLOAT)
    for values in _value_lists(proto):
        for value in values:
            if value.type.tensor_type.elem_type in _HALF:
                value.type.tensor_type.elem_type = int(ir.DataType.FLOAT)
    return ModelFile.in_memory(proto, file.source)


def _tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    for graph in _graphs(proto):
        yield from graph.initializer
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _value_lists(proto: onnx.ModelProto) -> Iterator[Iterable[onnx.ValueInfoProto]]:
    for graph in _graphs(proto):
        yield from (graph.input, graph.output, graph.value_info)
    for function in proto.functions:
        yield function.value_info


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for part in (*_graphs(proto), *proto.functions):
        yield from part.node


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for part in (proto.graph, *proto.functions):
        yield from _inner(part.node)


def _inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield graph
                yield from _inner(graph.node)
