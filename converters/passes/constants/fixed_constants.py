"""Decide which constants of a graph are learned and which were written into the model's code, by how they are read.

Exporters and optimisers store both as initializers, under names that say nothing. Per read of a float constant:

1. Never learned: an exponent; the bounds of a Clip; a threshold in a comparison; what a step function rounds; the
   scales of a Resize, the value of a Pad, the values of a OneHot, the boxes of a RoiAlign, the angles of a rotary
   embedding, the class weights of a loss, the scales of quantised activations and their kin; an epsilon (one number
   that is added to what a Sqrt, Log, Reciprocal or Div reads next). So is what only such a value is computed from (the
   1 / p of GeM).
2. Learned: whatever an operator owns as a weight (Conv, Gemm, MatMul, normalisations, PRelu, tables of a Gather), and
   every vector, matrix or table that arithmetic reads. A buffer, where the exporter says that it is one, is not.
3. One number that arithmetic reads (a scale, a factor, a beta) is learned only where the file shows that it was a
   parameter: dynamo's metadata say so; or without metadata, its name is a path of the state_dict
   (`layers.0.alpha`), or in a TorchScript file a whole word that a node of the top level reads (`logit_scale`).
4. Where neither is shown, the caller may name numbers that are learned; those of rule 1 are refused.

A constant with reads of both kinds is split: exporters merge equal constants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx_ir as ir

from ....errors import InputError
from ...records.value_names import is_original
from .constant_folding import FIXED_KEY, LITERAL_KEY, SOURCE_KEY, constant_tensor, source_of_constant

__all__ = ["fix_constants", "is_fixed_input"]

_FIXED_INPUTS: dict[str, tuple[int, ...]] = {
    "Pow": (1,),
    "Clip": (1, 2),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), (0, 1)),
    **dict.fromkeys(("Ceil", "Floor", "IsInf", "IsNaN", "Round", "Sign"), (0,)),
    "Mod": (0, 1),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "Pad": (2,),
    "OneHot": (0, 1, 2),
    "Range": (0, 1, 2),
    "Dropout": (1,),
    "NonMaxSuppression": (0, 1, 2, 3, 4),
    "MaxRoiPool": (1,),
    "RoiAlign": (1, 2),
    "RotaryEmbedding": (1, 2),
    "NegativeLogLikelihoodLoss": (1, 2),
    "SoftmaxCrossEntropyLoss": (1, 2),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "CastLike": (1,),
    "QuantizeLinear": (1, 2),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul"), (1, 2, 4, 5, 6, 7)),
}
"""Operator -> inputs that are arguments of the computation: no gradient reaches them, or none that means anything."""
_PREPARES = frozenset(
    {"Cast", "CastLike", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_ONE = frozenset(
    {"Abs", "Cos", "Erf", "Exp", "Log", "Neg", "Reciprocal", "Relu", "Sigmoid", "Sin", "Softplus", "Sqrt", "Tanh"}
)
_SEVERAL = frozenset({"Add", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sub", "Sum", "Where"})
_COMPUTES = _PREPARES | _ONE | _SEVERAL
_FX_NODE = "pkg.torch.onnx.fx_node"
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_WORD = re.compile(r"[A-Za-z_]*[A-Za-z]")


class _Read(Enum):
    """How a node reads a constant."""

    FIXED = 1
    OPERAND = 2
    OWNED = 3


def is_fixed_input(node: ir.Node, index: int) -> bool:
    """Whether input `index` of a node is an argument that no training may change."""
    return node.domain in ("", "ai.onnx") and index in _FIXED_INPUTS.get(node.op_type, ())


def fix_constants(model: ir.Model, learned: Sequence[str] = (), *, label: str) -> None:
    """Mark the reads of constants that are not learned, in place; a constant that is also learned is split.

    Args:
        model: without functions, sorted; constants may be initializers or Constant nodes.
        learned: names of single numbers that are learned, or patterns of them such as `"*.alpha"`.
        label: names the model in errors.

    Raises:
        InputError: a pattern of `learned` matches no number that could be learned.
    """
    _name_constants(model, learned)
    reads = _Reads(model)
    operands: set[str] = set()
    fixed_names: set[str] = set()
    for value in _float_initializers(model):
        name = value.name or ""
        given = any(fnmatchcase(name, pattern) for pattern in learned)
        found = [(use, reads.kind(use.node, use.idx)) for use in value.uses()]
        operands.update(name for _, kind in found if kind is _Read.OPERAND and _size(value) == 1)
        fixed_names.update(name for _, kind in found if kind is _Read.FIXED)
        fixed = [
            use
            for use, kind in found
            if kind is _Read.FIXED
            or (kind is _Read.OPERAND and not given and not _is_learned(value, use.node, reads.is_from_torchscript))
        ]
        if fixed:
            _fix(value, fixed, is_whole=len(fixed) == len(found) and not value.is_graph_output())
    for pattern in learned:
        if not any(fnmatchcase(name, pattern) for name in operands):
            raise InputError(f"{label}: {_refusal(pattern, operands, fixed_names)}")


def _refusal(pattern: str, operands: set[str], fixed: set[str]) -> str:
    named = sorted(name for name in fixed if fnmatchcase(name, pattern))
    if named:
        return f"{named[0]!r} is an exponent, a bound, a threshold or an epsilon, which never trains; leave it out"
    if not operands:
        return f"{pattern!r} matches nothing: the graph computes with no single number that could be learned"
    known = ", ".join(repr(name) for name in sorted(operands)[:5])
    return f"{pattern!r} matches no single number that could be learned; the graph computes with: {known}"


class _Reads:
    """How the nodes of a model read its constants."""

    def __init__(self, model: ir.Model) -> None:
        self._constant: dict[ir.Value, bool] = {}
        self._kinds: dict[tuple[ir.Node, int], _Read] = {}
        self.is_from_torchscript = "pytorch" in (model.producer_name or "").lower()

    def kind(self, node: ir.Node, index: int) -> _Read:
        """How `node` reads its input `index`, which is a constant."""
        key = (node, index)
        if key not in self._kinds:
            self._kinds[key] = _Read.OWNED  # of a graph that is not sorted
            self._kinds[key] = self._kind(node, index)
        return self._kinds[key]

    def _kind(self, node: ir.Node, index: int) -> _Read:
        if is_fixed_input(node, index) or self._is_scale_of_activations(node, index):
            return _Read.FIXED
        if node.domain not in ("", "ai.onnx") or node.op_type not in _COMPUTES:
            return _Read.OWNED
        behind = self._behind(node) if self._is_computed_constant(node) else []
        if behind and all(kind is _Read.FIXED for kind in behind):
            return _Read.FIXED
        if node.op_type in _PREPARES:
            if not behind:  # a number that fills a shape known at run time, such as a recurrent layer's first state
                return _Read.OPERAND if _size(node.inputs[index]) == 1 else _Read.OWNED
            return _Read.OWNED if _Read.OWNED in behind else _Read.OPERAND
        if node.op_type in _SEVERAL and self._is_epsilon(node, index):
            return _Read.FIXED
        return _Read.OWNED if node.op_type == "Add" and self._is_bias(node, index) else _Read.OPERAND

    def _is_scale_of_activations(self, node: ir.Node, index: int) -> bool:
        """The scale of a stored weight is part of the weight."""
        quantised = node.inputs[0] if node.op_type == "DequantizeLinear" and index == 1 else None
        return quantised is not None and not self._is_constant(quantised)

    def _behind(self, node: ir.Node) -> list[_Read]:
        """The reads of what `node` computes."""
        output = node.outputs[0]
        kinds = [self.kind(use.node, use.idx) for use in output.uses()]
        return [*kinds, _Read.OWNED] if output.is_graph_output() else kinds

    def _is_computed_constant(self, node: ir.Node) -> bool:
        return all(value is None or self._is_constant(value) for value in node.inputs)

    def _is_constant(self, value: ir.Value) -> bool:
        if value not in self._constant:
            self._constant[value] = False
            node = value.producer()
            self._constant[value] = value.const_value is not None or (
                node is not None
                and (node.op_type == "Constant" or (bool(node.inputs) and self._is_computed_constant(node)))
            )
        return self._constant[value]

    def _is_epsilon(self, node: ir.Node, index: int) -> bool:
        """Whether one number is added to a value that only roots, logarithms and divisions read."""
        constant = node.inputs[index]
        if node.op_type not in ("Add", "Max") or constant is None or _size(constant) != 1:
            return False
        uses = node.outputs[0].uses()
        return bool(uses) and all(
            use.node.op_type in ("Sqrt", "Log", "Reciprocal")
            or (use.node.op_type == "Div" and use.idx == 1)
            or (use.node.op_type == "Pow" and use.idx == 0 and _is_root(use.node.inputs[1]))
            for use in uses
        )

    def _is_bias(self, node: ir.Node, index: int) -> bool:
        """Whether this is the bias of a linear layer with one output, which exporters write as MatMul and Add."""
        other = node.inputs[1 - index] if len(node.inputs) == 2 else None
        product = other.producer() if other is not None else None
        if product is None or product.op_type not in ("MatMul", "Conv", "Gemm"):
            return False
        weight, constant = product.inputs[1], node.inputs[index]
        if weight is None or not self._is_constant(weight):
            return False
        return constant is None or _size(constant) != 1 or _output_channels(product) in (1, None)


def _output_channels(product: ir.Node) -> int | None:
    """Of a Conv, Gemm or MatMul whose second input is a constant; None where its shape is not known."""
    weight = product.inputs[1]
    shape = None if weight is None else weight.const_value.shape if weight.const_value is not None else weight.shape
    if shape is None or len(shape) < 2:
        return None
    transposed = product.op_type == "Gemm" and product.attributes.get_int("transB", 0) == 1
    size = shape[0 if product.op_type == "Conv" or transposed else -1]
    return size if isinstance(size, int) else None


def _is_root(exponent: ir.Value | None) -> bool:
    """Whether a Pow has a negative or fractional exponent, as far as it is known here."""
    tensor = None if exponent is None else exponent.const_value
    if tensor is None and exponent is not None:
        node = exponent.producer()
        tensor = constant_tensor(node) if node is not None and node.op_type == "Constant" else None
    if tensor is None or tensor.size != 1:
        return False
    number = float(np.asarray(tensor.numpy()).reshape(-1)[0])
    return number < 0 or number != int(number)


def _is_learned(value: ir.Value, reader: ir.Node, is_from_torchscript: bool) -> bool:
    """Whether the file shows that a constant which arithmetic reads was a parameter of the model."""
    kind = value.metadata_props.get(_KIND)
    name = source_of_constant(value).value
    if kind is not None and kind != "PARAMETER":
        return False  # a buffer, or a tensor that was written into the code
    if _size(value) != 1:
        return True
    call = reader.metadata_props.get(_FX_NODE)
    if call is not None:
        own = re.escape(re.sub(r"\W", "_", name))
        return bool(re.search(r"%p_" if kind is not None else rf"%p_{own}\b", call))
    return kind is not None or _is_path(name) or (is_from_torchscript and _is_read_at_the_top(name, reader))


def _is_path(name: str) -> bool:
    """Whether a name is that of a member of a module in a state_dict: `layers.0.alpha`."""
    parts = name.split(".")
    return (
        len(parts) > 1
        and is_original(name)
        and all(part.isidentifier() or part.isdigit() for part in parts)
        and all(is_original(part) for part in parts[1:] if not part.isdigit())
        and not any(part.lower() == "constant" for part in parts)
    )


def _is_read_at_the_top(name: str, reader: ir.Node) -> bool:
    """Whether a node of the network's own forward reads a member of the network itself, in a TorchScript file."""
    path = reader.name or ""
    return path.startswith("/") and path.count("/") == 1 and is_original(name) and bool(_WORD.fullmatch(name))


def _fix(value: ir.Value, uses: Sequence[Any], *, is_whole: bool) -> None:
    """Make `uses` read a constant that no training changes: `value` itself, or a copy where others learn it."""
    target = value
    if not is_whole:
        graph = value.graph
        assert graph is not None
        name = f"{value.name}_fixed"
        while name in graph.initializers:
            name += "_"
        target = ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
        target.meta[SOURCE_KEY] = source_of_constant(value)
        graph.register_initializer(target)
        for use in uses:
            use.node.replace_input_with(use.idx, target)
    target.meta[LITERAL_KEY] = target.meta[FIXED_KEY] = True


def _name_constants(model: ir.Model, learned: Sequence[str]) -> None:
    """Make initializers of the Constant nodes that the caller calls learned."""
    for node in list(model.graph):
        name = node.outputs[0].name or "" if node.op_type == "Constant" else ""
        if not name or node.outputs[0].is_graph_output() or not any(fnmatchcase(name, p) for p in learned):
            continue
        output, tensor = node.outputs[0], constant_tensor(node)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        output.replace_all_uses_with(value)
        output.name = f"{name}_constant"
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(value)


def _float_initializers(model: ir.Model) -> Iterator[ir.Value]:
    """Initializers of the graph and its subgraphs that hold float numbers."""
    graphs = {id(model.graph): model.graph}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if isinstance(node.graph, ir.Graph):
            graphs.setdefault(id(node.graph), node.graph)
    for graph in graphs.values():
        for value in list(graph.initializers.values()):
            if value.const_value is not None and value.const_value.dtype.is_floating_point():
                yield value


def _size(value: ir.Value | None) -> int:
    """Of a constant; -1 of any other value."""
    return -1 if value is None or value.const_value is None else int(value.const_value.size)
