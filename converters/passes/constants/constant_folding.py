"""Constant folding: replace nodes whose inputs are all constants by their values, so that layers read weights directly.

1. Operators that only prepare a weight are folded: Constant, Identity, Cast, CastLike, Reshape, Flatten, Squeeze,
   Unsqueeze, Transpose, DequantizeLinear.
2. Any other operator is folded only where no float initializer went into its inputs (literals and integers); a float
   weight that is computed with (scale times weight, a repeated token) remains a parameter and trains.
3. Never folded: random operators, operators with subgraphs, operators of other domains, nodes that give a graph output.
4. A folded value records the initializer it came from and the transform, so that training can be written back.
5. Values are computed by onnx's reference evaluator, as `converters/reference` corrects it.
6. A constant of over 2 GiB is refused before it is computed, see `constant_size`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from ....errors import InputError
from ...records.record import ParameterSource
from ...reference.evaluator import reference_evaluator
from .constant_size import refuse_absurd_size
from .generated_constants import GENERATED_KEY, is_generated

__all__ = [
    "FIXED_KEY",
    "LITERAL_KEY",
    "SOURCE_KEY",
    "constant_tensor",
    "evaluate",
    "fold_constants",
    "source_of_constant",
]

SOURCE_KEY = "rtool.parameter_source"
"""Key in `Value.meta` of a folded constant: its `ParameterSource`."""
LITERAL_KEY = "rtool.literal"
"""Key in `Value.meta` of a folded constant: whether no float initializer went into it."""
FIXED_KEY = "rtool.fixed"
"""Key in `Value.meta` that marks a constant as written into the code, so that it never becomes a parameter."""

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_KEEPS_ELEMENTS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_PREPARES_WEIGHTS = _KEEPS_ELEMENTS | {"Constant", "Identity", "Cast", "CastLike", "Transpose", "DequantizeLinear"}
_CONSTANT_VALUES = ("value", "value_float", "value_int", "value_floats", "value_ints", "value_string", "value_strings")


def fold_constants(model: ir.Model, label: str, *, keep: Collection[str] = ()) -> None:
    """Fold constants in place. `label` names the model in errors; operators in `keep` are not folded.

    Raises:
        InputError: a constant cannot be computed, or would be absurdly large.
    """
    graph = model.graph
    opsets = graph.opset_imports
    outputs = {id(value) for value in graph.outputs}
    for node in list(graph):
        if node.op_type in keep or not _is_foldable(node) or any(id(value) in outputs for value in node.outputs):
            continue
        tensors = _fold(node, opsets, label)
        for value, tensor in zip(node.outputs, tensors, strict=False):
            literal = _is_literal(node)
            made_up = literal and is_generated(node)
            _replace(graph, value, tensor, _source(node, value), literal=literal, made_up=made_up)
        graph.remove(node, safe=True)


def source_of_constant(value: ir.Value) -> ParameterSource:
    """The value of the source graph that a constant was made from, and the transform between them."""
    source = value.meta.get(SOURCE_KEY)
    return source if isinstance(source, ParameterSource) else ParameterSource(value.name or "")


def evaluate(node: ir.Node, arrays: Sequence[NDArray[Any] | None], opsets: dict[str, int]) -> list[NDArray[Any]]:
    """The outputs of one node for known inputs, computed by onnx's reference evaluator.

    Args:
        node: the node; its own inputs are not read.
        arrays: one array per input; None where an optional input is absent.
        opsets: domain -> opset version of the model.

    Raises:
        InputError: an output would be absurdly large.
    """
    refuse_absurd_size(node, arrays, opsets)
    proto = ir.serde.serialize_node(node)
    names = [f"input_{index}" if array is not None else "" for index, array in enumerate(arrays)]
    del proto.input[:]
    proto.input.extend(names)
    feed = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feed.items()
    ]
    outputs = [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in proto.output if name]
    versions = {node.domain: 1, **opsets}
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in versions.items()]
    graph = onnx.helper.make_graph([proto], "constant", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    return [np.asarray(array) for array in reference_evaluator(model).run(None, feed)]


def _is_foldable(node: ir.Node) -> bool:
    if node.op_type in _RANDOM or node.domain not in ("", "ai.onnx"):
        return False
    if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
        return False
    if node.op_type != "Constant" and not node.inputs:
        return False
    if not all(value is None or value.const_value is not None for value in node.inputs):
        return False
    return node.op_type in _PREPARES_WEIGHTS or _is_literal(node)


def _is_literal(node: ir.Node) -> bool:
    """Whether no float initializer went into the inputs: the constant was written into the model's code."""
    return all(value is None or not _is_float(value) or bool(value.meta.get(LITERAL_KEY)) for value in node.inputs)


def _is_float(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.dtype.is_floating_point()


def _fold(node: ir.Node, opsets: dict[str, int], label: str) -> Sequence[ir.TensorProtocol]:
    try:
        if node.op_type == "Constant":
            return [constant_tensor(node)]
        first = node.inputs[0]
        assert first is not None
        assert first.const_value is not None
        if node.op_type == "Identity":
            return [first.const_value]
        if node.op_type == "Transpose":
            permutation = node.attributes.get("perm")
            array = np.asarray(first.const_value.numpy())
            turned = np.transpose(array, None if permutation is None else permutation.as_ints())
            return [ir.Tensor(turned, dtype=first.const_value.dtype)]
        arrays = [
            None if v is None or v.const_value is None else np.asarray(v.const_value.numpy()) for v in node.inputs
        ]
        return [ir.tensor(array) for array in evaluate(node, arrays, opsets)]
    except InputError:
        raise
    except Exception as error:  # the evaluator raises any type of error
        raise InputError(
            f"{label}: node '{node.name}' ({node.op_type}): its constant value cannot be computed ({error}); "
            "simplify the model with onnxslim or re-export it"
        ) from error


def _array(value: ir.Value) -> NDArray[Any] | None:
    return None if value.const_value is None else np.asarray(value.const_value.numpy())


def constant_tensor(node: ir.Node) -> ir.TensorProtocol:
    """The value of a Constant node.

    Not by onnx-ir's `get_const_tensor`, which gives the tensor of the caller's file another name, and reads texts of
    ASCII alone.

    Raises:
        InputError: the value is sparse or missing.
    """
    for name in _CONSTANT_VALUES:
        attribute = node.attributes.get(name)
        if attribute is None:
            continue
        if name == "value":
            return attribute.as_tensor()
        dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        if name in dtype:
            return ir.tensor(np.array(attribute.value, dtype=dtype[name]))
        items = [attribute.value] if name == "value_string" else list(attribute.value)
        shape = () if name == "value_string" else (len(items),)
        return ir.StringTensor([str(item).encode() for item in items], shape=ir.Shape(shape))
    raise InputError(
        f"node '{node.name}' (Constant): a sparse or missing value is unsupported; re-export with dense weights"
    )


def _source(node: ir.Node, value: ir.Value) -> ParameterSource:
    own = ParameterSource(value.name or "")
    first = node.inputs[0] if node.inputs else None
    if first is None or first.const_value is None:
        return own
    origin = source_of_constant(first)
    if node.op_type in _KEEPS_ELEMENTS and origin.transform in ("identity", "reshape"):
        return ParameterSource(origin.value, "reshape")
    is_matrix = node.op_type == "Transpose" and len(first.const_value.shape) == 2
    if is_matrix and origin.transform == "identity":
        return ParameterSource(origin.value, "transpose")
    if is_matrix and origin.transform == "transpose":
        return ParameterSource(origin.value)
    return own


def _replace(
    graph: ir.Graph,
    value: ir.Value,
    tensor: ir.TensorProtocol,
    source: ParameterSource,
    *,
    literal: bool,
    made_up: bool,
) -> None:
    """Replace a node's output by an initializer of the same name."""
    constant = ir.Value(
        name=value.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    constant.meta[SOURCE_KEY] = source
    constant.meta[LITERAL_KEY] = literal
    if made_up:
        constant.meta[GENERATED_KEY] = constant.meta[FIXED_KEY] = True
    value.replace_all_uses_with(constant)
    value.name = f"{value.name}_folded"
    graph.register_initializer(constant)
