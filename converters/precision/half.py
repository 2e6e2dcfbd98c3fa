"""Make an ONNX model compute in float16 (or bfloat16): weights and activations, with as few Casts as possible.

Written anew on onnx-ir because the public converters leave graphs unsorted, clip weights at 1e4 without a word and
break on Resize, Cast and subgraphs. Here every weight keeps its value up to one rounding; a node whose weights do
not fit stays in float32, as do shape arithmetic, operators known to overflow (`half_rules`) and the nodes a caller
names. A Cast stands only where a narrow and a wide value meet, once per value.

Constants that would vanish where they guard a division stay wide as well (`half_epsilons`).

Does not look at activations; finding nodes that overflow on real data is `half_search`'s business.
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
from .half_rules import OVERFLOWING, NodeTypes, is_control_flow, node_types

__all__ = ["Float32Node", "HalfModel", "convert_prepared", "refuse_unknown_nodes", "to_half"]

HalfType = Literal["float16", "bfloat16"]

_TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_LARGEST = {"float16": 65504.0, "bfloat16": float(np.finfo(np.float32).max)}
_NUMPY = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Float32Node:
    """A node that stays in float32, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class HalfModel:
    """The narrow model, what stayed wide, and what the rounding did."""

    model: onnx.ModelProto
    kept: tuple[Float32Node, ...]
    casts: int
    """Cast nodes that were added."""
    flushed: int
    """Weights that were not 0 and are now, being below the smallest number of the narrow type."""
    returned: tuple[str, ...]
    """Names of those in `kept` that stay in float32 because the caller named them, and not by a rule."""


def to_half(
    model: onnx.ModelProto,
    *,
    keep_io_types: bool = True,
    keep: Collection[str] = (),
    dtype: HalfType = "float16",
) -> HalfModel:
    """Convert a copy of `model`.

    Args:
        model: a float32 model; not changed.
        keep_io_types: inputs and outputs of the graph stay float32, with one Cast each.
        keep: names of nodes that stay in float32.
        dtype: the narrow type.

    Raises:
        InputError: a name in `keep` does not exist, or a value's type cannot be inferred.
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
    """`to_half` of a model that `prepare_for_half` made; names in `keep` that it lacks are passed over."""
    source = ir.from_proto(onnx.shape_inference.infer_shapes(prepared))
    conversion = _Conversion(source, keep_io_types, frozenset(keep), dtype)
    conversion.run()
    result = ir.to_proto(source)
    del result.graph.value_info[:]  # readers infer the types of intermediate values, as they must in most files
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"{dtype}: the converted model does not pass onnx.checker ({error})") from error
    return HalfModel(result, tuple(conversion.kept), conversion.casts, conversion.flushed, tuple(conversion.returned))


def refuse_unknown_nodes(keep: Collection[str], model: onnx.ModelProto, prepared: onnx.ModelProto) -> None:
    """Names are those of `prepared`, or of nodes of `model` that became weights or aliases there and need no keeping.

    Raises:
        InputError: a name is neither; a call of a function, for one, stands for several nodes.
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
    """One run over a model: first every value's type is decided, then the graph is rewritten to match."""

    model: ir.Model
    keep_io_types: bool
    keep: frozenset[str]
    dtype: HalfType
    kept: list[Float32Node] = field(default_factory=list)
    casts: int = 0
    flushed: int = 0
    returned: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.narrow = _TYPES[self.dtype]
        self.limit = _LARGEST[self.dtype]
        self.opsets = self.model.graph.opset_imports
        self.plans: dict[ir.Node, NodeTypes] = {}
        self.types: dict[ir.Value, ir.DataType] = {}
        """What every value that was float32 becomes; initializers are made in both types as needed."""
        self.guards = nodes_guarding_divisions(self.model, self._vanishes)
        self.wide_graphs: dict[ir.Graph, str] = {}
        """Subgraphs of control flow that stays in float32, with the name of that node."""
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
            if is_control_flow(node) and (node.name in self.keep or node.graph in self.wide_graphs):
                self.wide_graphs.update(dict.fromkeys(_subgraphs(node), node.name or ""))
        data = _data_values(self.model)
        for graph in _graphs(self.model):
            self._decide_inputs(graph)
        for node in nodes:
            self._decide(node, data)
        for value in self.model.graph.outputs:
            if value.is_initializer() and _is_float(value):  # it keeps its name; a twin serves other readers
                self._as(value, self._interface_type(self.model.graph))
        for node in nodes:
            self._rewrite(node)
        for graph in _graphs(self.model):
            self._rewrite_outputs(graph)
        for value, dtype in self.types.items():
            value.dtype = dtype
        _drop_idle_casts(self.model)
        shorten_values(self.model)

    # -- deciding ---------------------------------------------------------------------------------------------

    def _decide_inputs(self, graph: ir.Graph) -> None:
        for value in graph.inputs:
            if _is_float(value) and not value.is_initializer():
                self.types[value] = self._interface_type(graph)

    def _interface_type(self, graph: ir.Graph) -> ir.DataType:
        """What the float inputs and outputs of a graph become."""
        main = graph is self.model.graph
        return ir.DataType.FLOAT if (main and self.keep_io_types) or graph in self.wide_graphs else self.narrow

    def _decide(self, node: ir.Node, data: set[ir.Value]) -> None:
        types = node_types(node, self.opsets.get(node.domain, 0), self.dtype)
        reason = self._rule_to_keep(node, types, data)
        wish = self._wish_to_keep(node) if reason is None else None
        if types is None or reason is not None or wish is not None:
            types = NodeTypes((False,) * len(node.inputs), (False,) * len(node.outputs))
            if (reason or wish) and any(_is_float(value) for value in (*node.inputs, *node.outputs)):
                self.kept.append(Float32Node(node.name or "", node.op_type, reason or wish or ""))
                if wish:
                    self.returned.append(node.name or "")
        self.plans[node] = types
        for value, narrow in zip(node.outputs, types.outputs, strict=True):
            if value.dtype is None and value.type is None and value.name:
                raise InputError(
                    f"{self.dtype}: the type of '{value.name}', made by node '{node.name}' ({node.op_type}), cannot "
                    "be inferred; simplify the model first"
                )
            if _is_float(value):
                self.types[value] = self.narrow if narrow else ir.DataType.FLOAT

    def _wish_to_keep(self, node: ir.Node) -> str | None:
        """Whether the caller wants `node` in float32: itself, or the node whose subgraph it is in."""
        if node.name in self.keep:
            return "asked for"
        owner = self.wide_graphs.get(node.graph) if isinstance(node.graph, ir.Graph) else None
        return None if owner is None else f"inside of '{owner}', which was asked for"

    def _rule_to_keep(self, node: ir.Node, types: NodeTypes | None, data: set[ir.Value]) -> str | None:
        """Why `node` stays in float32 in any case; "" for a reason not worth reporting, None when it is narrowed."""
        if is_control_flow(node):
            return None
        if types is None:
            return f"operator of domain '{node.domain}' without schema"
        if node.op_type in OVERFLOWING:
            return "its sums may overflow"
        if any(_is_sequence(value) for value in (*node.inputs, *node.outputs)):
            return "it works on sequences"
        if not any(value in data for value in (*node.inputs, *node.outputs) if value is not None):
            return ""  # computed from shapes and constants alone
        if node in self.guards:
            return self.guards[node]
        for index, value in enumerate(node.inputs):
            if value is not None and not self._fits(value) and not self._is_idle_bound(node, index):
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

    def _is_idle_bound(self, node: ir.Node, index: int) -> bool:
        """Whether input `index` is a bound of Clip that no narrow number reaches, so that infinity does as well."""
        value = node.inputs[index]
        if node.op_type != "Clip" or index == 0 or value is None or value.const_value is None:
            return False
        return bool((np.asarray(value.const_value.numpy()) * (1 if index == 2 else -1) > 0).all())

    def _vanishes(self, wide: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray((wide != 0) & (wide.astype(_NUMPY[self.dtype]) == 0), dtype=np.bool_)

    # -- rewriting --------------------------------------------------------------------------------------------

    def _rewrite(self, node: ir.Node) -> None:
        for index, (value, narrow) in enumerate(zip(node.inputs, self.plans[node].inputs, strict=True)):
            if value is not None and _is_float(value):
                wanted = self.narrow if narrow else ir.DataType.FLOAT
                node.replace_input_with(index, self._as(value, wanted))
        narrowed = [value for value in node.outputs if self.types.get(value) == self.narrow]
        for name in ("to", "dtype"):
            attribute = node.attributes.get(name)
            if narrowed and attribute is not None and attribute.value == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, self.narrow.value)
        if narrowed and node.op_type == "ConstantOfShape":
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
        """`value` in the wanted type: itself, a converted weight, or the output of a Cast."""
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
        """An initializer of the wanted type: the first type asked for takes the value's place, a second is added."""
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
        wide: NDArray[np.float32] = tensor.numpy()
        with np.errstate(over="ignore"):  # only bounds of Clip may become infinite, see _is_idle_bound
            narrow = wide.astype(_NUMPY[self.dtype])
        self.flushed += int(((narrow == 0) & (wide != 0)).sum())
        return ir.Tensor(narrow, dtype=self.narrow, name=tensor.name)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and isinstance(value.type, ir.TensorType) and value.type.dtype == ir.DataType.FLOAT


def _is_sequence(value: ir.Value | None) -> bool:
    return value is not None and isinstance(value.type, ir.SequenceType | ir.OptionalType)


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and every subgraph."""
    yield model.graph
    yield from model.graph.subgraphs()


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The subgraphs a node runs itself."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def _unused(name: str, taken: set[str | None]) -> str:
    """`name`, made unlike all in `taken` and added to them."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _data_values(model: ir.Model) -> set[ir.Value]:
    """Values that depend on what is in the inputs, rather than on shapes and constants alone."""
    data = {value for graph in _graphs(model) for value in graph.inputs if not value.is_initializer()}
    for node in model.graph.all_nodes():
        if node.op_type in ("Shape", "Size"):
            continue
        if is_control_flow(node) or any(value in data for value in node.inputs if value is not None):
            data.update(node.outputs)
    return data


def _drop_idle_casts(model: ir.Model) -> None:
    """Remove Casts of the source that now cast a type to itself."""
    for graph in _graphs(model):
        for node in list(graph):
            if node.op_type != "Cast" or node.inputs[0] is None or node.outputs[0].is_graph_output():
                continue
            if node.inputs[0].dtype == node.outputs[0].dtype:
                node.outputs[0].replace_all_uses_with(node.inputs[0])
                graph.remove(node, safe=True)
