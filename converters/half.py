"""Make an ONNX model compute in float16 (or bfloat16): weights and activations, with as few Casts as possible.

Written anew on onnx-ir because the public converters leave graphs unsorted, clip weights at 1e4 without a word and
break on Resize, Cast and subgraphs. Here every weight keeps its value up to one rounding; a node whose weights do
not fit stays in float32, as do shape arithmetic, operators known to overflow (`half_rules`) and the nodes a caller
names. A Cast stands only where a narrow and a wide value meet, once per value.

Does not look at activations; finding nodes that overflow on real data is `half_search`'s business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import IdentityEliminationPass, InlinePass

from ..errors import GateError, InputError
from .half_rules import OVERFLOWING, NodeTypes, is_control_flow, node_types
from .short_names import shorten_values

__all__ = ["HalfModel", "KeptNode", "to_half"]

Narrow = Literal["float16", "bfloat16"]

_TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_LARGEST = {"float16": 65504.0, "bfloat16": float(np.finfo(np.float32).max)}
_NUMPY = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class KeptNode:
    """A node that stays in float32, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class HalfModel:
    """The narrow model, what stayed wide, and what the rounding did."""

    model: onnx.ModelProto
    kept: tuple[KeptNode, ...]
    casts: int
    """Cast nodes that were added."""
    flushed: int
    """Weights that were not 0 and are now, being below the smallest number of the narrow type."""


def to_half(
    model: onnx.ModelProto,
    *,
    keep_io_types: bool = True,
    keep: Collection[str] = (),
    dtype: Narrow = "float16",
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
    """
    source = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    if source.functions:
        InlinePass()(source)
    IdentityEliminationPass()(source)
    _name_nodes(source)
    conversion = _Conversion(source, keep_io_types, frozenset(keep), dtype)
    conversion.run()
    result = ir.to_proto(source)
    del result.graph.value_info[:]  # readers infer the types of intermediate values, as they must in most files
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"{dtype}: the converted model does not pass onnx.checker ({error})") from error
    return HalfModel(result, tuple(conversion.kept), conversion.casts, conversion.flushed)


def _name_nodes(model: ir.Model) -> None:
    """Give nameless nodes a name, so that they can be kept and reported."""
    taken = {node.name for node in model.graph.all_nodes()}
    for index, node in enumerate(model.graph.all_nodes()):
        if not node.name:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)


@dataclass
class _Conversion:
    """One run over a model: first every value's type is decided, then the graph is rewritten to match."""

    model: ir.Model
    keep_io_types: bool
    keep: frozenset[str]
    dtype: Narrow
    kept: list[KeptNode] = field(default_factory=list)
    casts: int = 0
    flushed: int = 0

    def __post_init__(self) -> None:
        self.narrow = _TYPES[self.dtype]
        self.limit = _LARGEST[self.dtype]
        self.opsets = self.model.graph.opset_imports
        self.plans: dict[ir.Node, NodeTypes] = {}
        self.types: dict[ir.Value, ir.DataType] = {}
        """What every value that was float32 becomes; initializers are made in both types as needed."""
        self.cast_values: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.constants: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        nodes = list(self.model.graph.all_nodes())
        unknown = self.keep - {node.name for node in nodes}
        if unknown:
            raise InputError(f"{self.dtype}: no node named {sorted(unknown)[0]!r} to keep in float32")
        _lift_float_constants(self.model)
        nodes = list(self.model.graph.all_nodes())
        data = _data_values(self.model)
        for graph in _graphs(self.model):
            self._decide_inputs(graph)
        for node in nodes:
            self._decide(node, data)
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
        wide = graph is self.model.graph and self.keep_io_types
        for value in graph.inputs:
            if _is_float(value) and not value.is_initializer():
                self.types[value] = ir.DataType.FLOAT if wide else self.narrow

    def _decide(self, node: ir.Node, data: set[ir.Value]) -> None:
        types = node_types(node, self.opsets.get(node.domain, 0), self.dtype)
        reason = self._reason_to_keep(node, types, data)
        if types is None or reason is not None:
            types = NodeTypes((False,) * len(node.inputs), (False,) * len(node.outputs))
            if reason and any(_is_float(value) for value in (*node.inputs, *node.outputs)):
                self.kept.append(KeptNode(node.name or "", node.op_type, reason))
        self.plans[node] = types
        for value, narrow in zip(node.outputs, types.outputs, strict=True):
            if value.dtype is None and value.type is None and value.name:
                raise InputError(
                    f"{self.dtype}: the type of '{value.name}', made by node '{node.name}' ({node.op_type}), cannot "
                    "be inferred; simplify the model first"
                )
            if _is_float(value):
                self.types[value] = self.narrow if narrow else ir.DataType.FLOAT

    def _reason_to_keep(self, node: ir.Node, types: NodeTypes | None, data: set[ir.Value]) -> str | None:
        """Why `node` stays in float32; "" for a reason not worth reporting, None when it is narrowed."""
        if node.name in self.keep:
            return "asked for"
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
        for index, value in enumerate(node.inputs):
            if value is not None and not self._fits(value) and not (node.op_type == "Clip" and index > 0):
                return f"weight '{value.name}' exceeds {self.limit:g}"
        return None

    def _fits(self, value: ir.Value) -> bool:
        if not _is_float(value) or value.const_value is None:
            return True
        magnitude = np.abs(value.const_value.numpy())
        return not bool((magnitude[np.isfinite(magnitude)] > self.limit).any())

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

    def _rewrite_outputs(self, graph: ir.Graph) -> None:
        main = graph is self.model.graph
        wanted = ir.DataType.FLOAT if main and self.keep_io_types else self.narrow
        for index, value in enumerate(graph.outputs):
            if not _is_float(value) or self.types.get(value) == wanted:
                continue
            result = self._as(value, wanted)
            graph.outputs[index] = result
            if main and value.producer() is not None:
                value.name, result.name = f"{value.name}_{self.dtype}", value.name

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
        name = f"{value.name}_{wanted.name.lower()}"
        cast = ir.node("Cast", [value], {"to": wanted.value}, name=f"Cast_{name}")
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
        tensor = original if wanted == ir.DataType.FLOAT else self._narrowed(original)
        if "rtool.typed" not in value.meta:
            value.meta["rtool.typed"] = True
            value.const_value = tensor
            self.types[value] = wanted
            self.constants[key] = value
            return value
        graph = value.graph
        assert graph is not None
        twin = ir.Value(
            name=f"{value.name}_{wanted.name.lower()}",
            shape=value.shape,
            type=ir.TensorType(wanted),
            const_value=tensor,
        )
        graph.register_initializer(twin)
        self.types[twin] = wanted
        self.constants[key] = twin
        self.constants[(twin, wanted)] = twin
        return twin

    def _narrowed(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        wide: NDArray[np.float32] = tensor.numpy()
        with np.errstate(over="ignore"):  # only bounds of Clip may become infinite, see _reason_to_keep
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


def _lift_float_constants(model: ir.Model) -> None:
    """Turn float32 Constant nodes into initializers, so that weights look alike."""
    for graph in _graphs(model):
        for node in list(graph):
            attribute = node.attributes.get("value")
            if node.op_type != "Constant" or attribute is None or node.outputs[0].is_graph_output():
                continue
            tensor = attribute.as_tensor()
            if tensor.dtype != ir.DataType.FLOAT:
                continue
            old = node.outputs[0]
            new = ir.Value(name=old.name, type=old.type, shape=tensor.shape, const_value=tensor)  # type: ignore[arg-type]
            new.type = ir.TensorType(ir.DataType.FLOAT)
            old.replace_all_uses_with(new)
            graph.remove(node, safe=True)
            graph.register_initializer(new)


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
