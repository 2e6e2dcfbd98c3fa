"""Convert an ONNX model to float16 or bfloat16, weights and activations, with as few Casts as possible.

Not built on the public converters, which leave graphs unsorted, clip weights at 1e4 without a warning and fail on
Resize, Cast and subgraphs.

1. Each node is converted or stays in float32, as `half_rules` lists; the caller may name more nodes to stay.
2. Each converted weight is rounded once; a weight that converted and float32 nodes share is stored in both dtypes.
3. A Cast is added only where float32 and 16-bit nodes meet, once per value and dtype.

Activations are not measured here: `half_search` finds the nodes that overflow on real inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import GateError, InputError
from ..passes.short_names import shorten_values
from .half_epsilons import nodes_guarding_divisions
from .half_preparation import prepare_for_half
from .half_rules import OVERFLOWING, NodeTypes, data_values, is_control_flow, node_types, subgraphs_of

__all__ = ["Float32Node", "HalfConverter", "HalfModel", "convert_prepared", "refuse_unknown_nodes", "to_half"]

HalfType = Literal["float16", "bfloat16"]
HalfConverter = Literal["rtool", "onnxconverter-common"]
"""Who converts: this file, or Microsoft's library (to float16 only)."""

_TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_LARGEST = {"float16": 65504.0, "bfloat16": float(np.finfo(np.float32).max)}
_NUMPY = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Float32Node:
    """A node that stays in float32, and the reason."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class HalfModel:
    """The converted model, the nodes that stay in float32, and what the rounding changed."""

    model: onnx.ModelProto
    float32_nodes: tuple[Float32Node, ...]
    casts: int
    """Number of Cast nodes that were added."""
    flushed: int
    """Number of weights that underflowed to zero in the 16-bit dtype."""
    returned: tuple[str, ...]
    """Names of those in `float32_nodes` that stay in float32 on request, not by a rule."""


def to_half(
    model: onnx.ModelProto,
    *,
    keep_io_types: bool = True,
    keep: Collection[str] = (),
    dtype: HalfType = "float16",
) -> HalfModel:
    """Convert a copy of `model` to `dtype`.

    Args:
        model: a float32 model; not changed.
        keep_io_types: whether inputs and outputs of the graph stay float32, with one Cast each.
        keep: names of nodes that stay in float32.
        dtype: "float16" or "bfloat16".

    Raises:
        InputError: a name in `keep` does not exist, or the dtype of a value cannot be inferred.
        GateError: the result does not pass `onnx.checker`.

    Examples:
        >>> half = rtool.converters.to_half(onnx.load("model.onnx"))
        >>> half.casts, [node.op_type for node in half.model.graph.node]
        (2, ['Cast', 'Conv', 'Relu', 'ReduceMean', 'Cast'])
    """
    prepared = prepare_for_half(model)
    refuse_unknown_nodes(keep, model, prepared)
    return convert_prepared(prepared, keep_io_types=keep_io_types, keep=keep, dtype=dtype)


def convert_prepared(
    prepared: onnx.ModelProto, *, keep_io_types: bool, keep: Collection[str], dtype: HalfType
) -> HalfModel:
    """`to_half` for a model from `prepare_for_half`; names in `keep` that it does not have are ignored."""
    source = ir.from_proto(onnx.shape_inference.infer_shapes(prepared))
    conversion = _Conversion(source, keep_io_types, frozenset(keep), dtype)
    conversion.run()
    result = ir.to_proto(source)
    del result.graph.value_info[:]  # readers infer the dtypes of intermediate values
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"{dtype}: the converted model does not pass onnx.checker ({error})") from error
    return HalfModel(
        result, tuple(conversion.float32_nodes), conversion.casts, conversion.flushed, tuple(conversion.returned)
    )


def refuse_unknown_nodes(keep: Collection[str], model: onnx.ModelProto, prepared: onnx.ModelProto) -> None:
    """Check that each name in `keep` is a node of `prepared`, or a node of `model` that the preparation removed.

    Raises:
        InputError: a name is neither, or is a call of a function, which stands for several nodes.
    """
    calls = {(function.domain, function.name) for function in model.functions}
    known = {node.name for node in ir.from_proto(prepared).graph.all_nodes()}
    known |= {node.name for node in ir.from_proto(model).graph.all_nodes() if (node.domain, node.op_type) not in calls}
    unknown = set(keep) - known
    if unknown:
        raise InputError(
            f"no node named {min(unknown)!r} to keep in float32; take names from the manifest of this model's export"
        )


@dataclass
class _Conversion:
    """One run over a model: first the dtype of every value is decided, then the graph is rewritten to match."""

    model: ir.Model
    keep_io_types: bool
    keep: frozenset[str]
    dtype: HalfType
    float32_nodes: list[Float32Node] = field(default_factory=list)
    casts: int = 0
    flushed: int = 0
    returned: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.half = _TYPES[self.dtype]
        self.limit = _LARGEST[self.dtype]
        self.opsets = self.model.graph.opset_imports
        self.plans: dict[ir.Node, NodeTypes] = {}
        self.types: dict[ir.Value, ir.DataType] = {}
        """New dtype of each value that was float32; initializers exist in both dtypes as needed."""
        self.guards = nodes_guarding_divisions(self.model, self._vanishes)
        self.float32_graphs: dict[ir.Graph, str] = {}
        """Subgraph of a control-flow node that stays in float32 -> the name of that node."""
        nodes = list(self.model.graph.all_nodes())
        self.node_names = {node.name for node in nodes}
        self.value_names = {value.name for graph in _graphs(self.model) for value in graph.inputs}
        self.value_names |= {name for graph in _graphs(self.model) for name in graph.initializers}
        self.value_names |= {value.name for node in nodes for value in node.outputs}
        self.cast_values: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.constants: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        nodes = list(self.model.graph.all_nodes())
        for node in nodes:
            if is_control_flow(node) and (node.name in self.keep or node.graph in self.float32_graphs):
                self.float32_graphs.update(dict.fromkeys(subgraphs_of(node), node.name or ""))
        data = data_values(self.model)
        for graph in _graphs(self.model):
            self._decide_inputs(graph)
        for node in nodes:
            self._decide(node, data)
        for value in self.model.graph.outputs:
            if value.is_initializer() and _is_float(value):  # it keeps its name; other readers use a copy
                self._as(value, self._interface_type(self.model.graph))
        for node in nodes:
            self._rewrite(node)
        for graph in _graphs(self.model):
            self._rewrite_outputs(graph)
        for value, dtype in self.types.items():
            value.dtype = dtype
        _drop_useless_casts(self.model)
        shorten_values(self.model)

    # -- deciding ---------------------------------------------------------------------------------------------

    def _decide_inputs(self, graph: ir.Graph) -> None:
        for value in graph.inputs:
            if _is_float(value) and not value.is_initializer():
                self.types[value] = self._interface_type(graph)

    def _interface_type(self, graph: ir.Graph) -> ir.DataType:
        """The new dtype of the float32 inputs and outputs of a graph."""
        main = graph is self.model.graph
        return ir.DataType.FLOAT if (main and self.keep_io_types) or graph in self.float32_graphs else self.half

    def _decide(self, node: ir.Node, data: set[ir.Value]) -> None:
        types = node_types(node, self.opsets.get(node.domain, 0), self.dtype)
        reason = self._reason_by_rule(node, types, data)
        request = self._reason_by_request(node) if reason is None else None
        if types is None or reason is not None or request is not None:
            types = NodeTypes((False,) * len(node.inputs), (False,) * len(node.outputs))
            if (reason or request) and any(_is_float(value) for value in (*node.inputs, *node.outputs)):
                self.float32_nodes.append(Float32Node(node.name or "", node.op_type, reason or request or ""))
                if request:
                    self.returned.append(node.name or "")
        self.plans[node] = types
        for value, is_half in zip(node.outputs, types.outputs, strict=True):
            if value.dtype is None and value.type is None and value.name:
                raise InputError(
                    f"{self.dtype}: the dtype of '{value.name}', written by node '{node.name}' ({node.op_type}), "
                    "cannot be inferred; simplify the model first"
                )
            if _is_float(value):
                self.types[value] = self.half if is_half else ir.DataType.FLOAT

    def _reason_by_request(self, node: ir.Node) -> str | None:
        """Why `node` stays on request: it, or the node whose subgraph it is in, is named; None otherwise."""
        if node.name in self.keep:
            return "requested"
        owner = self.float32_graphs.get(node.graph) if isinstance(node.graph, ir.Graph) else None
        return None if owner is None else f"in a subgraph of '{owner}', which was requested"

    def _reason_by_rule(self, node: ir.Node, types: NodeTypes | None, data: set[ir.Value]) -> str | None:
        """Why `node` stays by `half_rules`; "" for rule 5, which is not reported; None if it is converted."""
        if is_control_flow(node):
            return None
        if types is None:
            return f"operator of domain '{node.domain}' without schema"
        if node.op_type in OVERFLOWING:
            return "its sums may overflow"
        if any(_is_sequence(value) for value in (*node.inputs, *node.outputs)):
            return "it reads or writes sequences"
        if not any(value in data for value in (*node.inputs, *node.outputs) if value is not None):
            return ""  # computed from shapes and constants alone
        if node in self.guards:
            return self.guards[node]
        for index, value in enumerate(node.inputs):
            if value is not None and not self._fits(value) and not self._is_unreachable_bound(node, index):
                return f"weight '{value.name}' exceeds {self.limit:g}"
        filling = node.attributes.get("value")
        if node.op_type == "ConstantOfShape" and filling is not None and self._exceeds(filling.as_tensor()):
            return f"its value exceeds {self.limit:g}"
        return None

    def _fits(self, value: ir.Value) -> bool:
        return not _is_float(value) or value.const_value is None or not self._exceeds(value.const_value)

    def _exceeds(self, tensor: ir.TensorProtocol) -> bool:
        magnitude = np.abs(tensor.numpy())
        return bool((magnitude[np.isfinite(magnitude)] > self.limit).any())

    def _is_unreachable_bound(self, node: ir.Node, index: int) -> bool:
        """Whether input `index` is a bound of Clip that no 16-bit value reaches, so that infinity does the same."""
        value = node.inputs[index]
        if node.op_type != "Clip" or index == 0 or value is None or value.const_value is None:
            return False
        return bool((np.asarray(value.const_value.numpy()) * (1 if index == 2 else -1) > 0).all())

    def _vanishes(self, array: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray((array != 0) & (array.astype(_NUMPY[self.dtype]) == 0), dtype=np.bool_)

    # -- rewriting --------------------------------------------------------------------------------------------

    def _rewrite(self, node: ir.Node) -> None:
        for index, (value, is_half) in enumerate(zip(node.inputs, self.plans[node].inputs, strict=True)):
            if value is not None and _is_float(value):
                wanted = self.half if is_half else ir.DataType.FLOAT
                node.replace_input_with(index, self._as(value, wanted))
        converted = [value for value in node.outputs if self.types.get(value) == self.half]
        for name in ("to", "dtype"):
            attribute = node.attributes.get(name)
            if converted and attribute is not None and attribute.value == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, self.half.value)
        if converted and node.op_type == "ConstantOfShape":
            attribute = node.attributes.get("value")
            filling = ir.tensor(np.zeros(1, np.float32)) if attribute is None else attribute.as_tensor()
            node.attributes["value"] = ir.AttrTensor("value", self._rounded(filling))

    def _rewrite_outputs(self, graph: ir.Graph) -> None:
        wanted = self._interface_type(graph)
        for index, value in enumerate(graph.outputs):
            if not _is_float(value) or self.types.get(value) == wanted:
                continue
            result = self._as(value, wanted)
            graph.outputs[index] = result
            if graph is self.model.graph and value.producer() is not None:
                value.name, result.name = result.name, value.name

    def _as(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """`value` in the wanted dtype: itself, a converted weight, or the output of a Cast."""
        if value.const_value is not None and value.is_initializer():
            return self._constant(value, wanted)
        if self.types[value] == wanted:
            return value
        key = (value, wanted)
        if key not in self.cast_values:
            self.cast_values[key] = self._insert_cast(value, wanted)
        return self.cast_values[key]

    def _insert_cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name = _unused(f"{value.name}_{wanted.name.lower()}", self.value_names)
        cast = ir.node("Cast", [value], {"to": wanted.value}, name=_unused(f"Cast_{name}", self.node_names))
        result = cast.outputs[0]
        result.name, result.type, result.shape = name, ir.TensorType(wanted), value.shape
        producer, graph = value.producer(), value.graph
        assert graph is not None
        if producer is not None:
            graph.insert_after(producer, cast)
        else:
            first = next(iter(graph), None)
            if first is None:
                graph.append(cast)
            else:
                graph.insert_before(first, cast)
        self.casts += 1
        return result

    def _constant(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """An initializer of the wanted dtype: the first dtype replaces the value, a second one is added beside it."""
        key = (value, wanted)
        if key in self.constants:
            return self.constants[key]
        assert value.const_value is not None
        original = value.meta.setdefault("rtool.float32", value.const_value)
        tensor = original if wanted == ir.DataType.FLOAT else self._rounded(original)
        if "rtool.typed" not in value.meta:
            value.meta["rtool.typed"] = True
            value.const_value = tensor
            self.types[value] = wanted
            self.constants[key] = value
            return value
        graph = value.graph
        assert graph is not None
        twin = ir.Value(
            name=_unused(f"{value.name}_{wanted.name.lower()}", self.value_names),
            shape=value.shape,
            type=ir.TensorType(wanted),
            const_value=tensor,
        )
        graph.register_initializer(twin)
        self.types[twin] = wanted
        self.constants[key] = twin
        self.constants[(twin, wanted)] = twin
        return twin

    def _rounded(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        array: NDArray[np.float32] = tensor.numpy()
        with np.errstate(over="ignore"):  # only bounds of Clip may become infinite, see _is_unreachable_bound
            half = array.astype(_NUMPY[self.dtype])
        self.flushed += int(((half == 0) & (array != 0)).sum())
        return ir.Tensor(half, dtype=self.half, name=tensor.name)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and isinstance(value.type, ir.TensorType) and value.type.dtype == ir.DataType.FLOAT


def _is_sequence(value: ir.Value | None) -> bool:
    return value is not None and isinstance(value.type, ir.SequenceType | ir.OptionalType)


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and every subgraph."""
    yield model.graph
    yield from model.graph.subgraphs()


def _unused(name: str, used: set[str | None]) -> str:
    """`name` with underscores appended until it is not in `used`; the result is added to `used`."""
    while name in used:
        name += "_"
    used.add(name)
    return name


def _drop_useless_casts(model: ir.Model) -> None:
    """Remove Casts of the source model whose input already has the dtype they cast to."""
    for graph in _graphs(model):
        for node in list(graph):
            if node.op_type != "Cast" or node.inputs[0] is None or node.outputs[0].is_graph_output():
                continue
            if node.inputs[0].dtype == node.outputs[0].dtype:
                node.outputs[0].replace_all_uses_with(node.inputs[0])
                graph.remove(node, safe=True)
