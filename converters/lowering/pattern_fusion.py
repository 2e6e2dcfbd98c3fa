"""Pattern fusion: replace several nodes that exporters write for one layer by a single fused operator.

1. Linear: MatMul with a constant matrix, then Add of a constant vector.
2. LayerNormalization: `(x - mean) / sqrt(mean((x - mean)^2) + eps) * w + b` over the last axis (arXiv:1607.06450).
3. Gelu: `0.5 * x * (1 + erf(x / sqrt(2)))`, the exact form (arXiv:1606.08415).
4. Attention: `softmax(q @ k' * scale) @ v` without a mask (arXiv:1706.03762).

Works in place on a graph in canonical form with inferred shapes. A pattern is fused only where its inner values have
no other readers and its constants have the expected values. Fused operators have the domain `FUSED_DOMAIN` and are
lowered in `layers/fused.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..operators.support import FUSED_DOMAIN
from .graph_builder import FUSED_KEY
from .values import dims_of

__all__ = ["fuse_patterns"]


@dataclass(frozen=True)
class Match:
    """Nodes, the last of which gives the result, and the fused operator that replaces them."""

    operator: str
    nodes: Sequence[ir.Node]
    inputs: Sequence[ir.Value | None]
    attributes: Sequence[ir.Attr] = ()


def fuse_patterns(graph: ir.Graph) -> None:
    """Replace every match of a pattern, in place."""
    for operator, finders in _FINDERS.items():
        for node in [node for node in graph if node.op_type == operator and node.domain == ""]:
            if node.graph is None:
                continue
            found = next((match for finder in finders if (match := finder(node)) is not None), None)
            if found is not None:
                _replace(graph, found)


def _replace(graph: ir.Graph, match: Match) -> None:
    last = match.nodes[-1]
    # The fused node has the name and the metadata of the last node.
    fused = ir.Node(FUSED_DOMAIN, match.operator, match.inputs, match.attributes, name=last.name)
    fused.metadata_props.update(last.metadata_props)
    fused.meta[FUSED_KEY] = tuple(node.name or "" for node in match.nodes)
    ir.convenience.replace_nodes_and_values(
        graph, last, list(reversed(match.nodes)), [fused], [last.outputs[0]], [fused.outputs[0]]
    )


# -- reading the graph --------------------------------------------------------------------------------------------


def _made_by(value: ir.Value | None, operator: str) -> ir.Node | None:
    """The node of this operator that writes `value`, if `value` has a single reader; else None."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != operator or node.domain != "":
        return None
    return node if len(value.uses()) == 1 and not value.is_graph_output() else None


def _number(value: ir.Value | None) -> float | None:
    """The value of a constant of one element; else None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(np.asarray(value.const_value.numpy()).reshape(-1)[0])


def _is_number(value: ir.Value | None, expected: float) -> bool:
    number = _number(value)
    return number is not None and abs(number - expected) <= 1e-6 * max(1.0, abs(expected))


def _with_number(node: ir.Node, expected: float) -> ir.Value | None:
    """The other input of a commutative node that has this number as an input; else None."""
    left, right = node.inputs
    if _is_number(right, expected):
        return left
    return right if _is_number(left, expected) else None


def _pairs(node: ir.Node) -> list[tuple[ir.Value | None, ir.Value | None]]:
    left, right = node.inputs
    return [(left, right), (right, left)]


def _is_float_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.const_value.dtype.is_floating_point()


# -- Linear -------------------------------------------------------------------------------------------------------


def _linear(node: ir.Node) -> Match | None:
    """`x @ W + b` with a constant matrix and a constant vector."""
    for product, bias in _pairs(node):
        matmul = _made_by(product, "MatMul")
        if matmul is None or bias is None or not _is_float_constant(bias):
            continue
        weight = matmul.inputs[1]
        if weight is None or not _is_float_constant(weight):
            continue
        shape = dims_of(weight)
        if shape is not None and len(shape) == 2 and dims_of(bias) == shape[1:]:
            return Match("Linear", (matmul, node), (matmul.inputs[0], weight, bias))
    return None


# -- LayerNorm ----------------------------------------------------------------------------------------------------


def _layer_norm(node: ir.Node) -> Match | None:
    """`(x - mean) / sqrt(mean((x - mean)^2) + eps) * w + b` over the last axis."""
    for scaled, bias in _pairs(node):
        multiply = _made_by(scaled, "Mul")
        if multiply is None or not _is_float_constant(bias):
            continue
        for normed, weight in _pairs(multiply):
            divide = _made_by(normed, "Div")
            if divide is None or weight is None or not _is_float_constant(weight):
                continue
            found = _normalisation(divide)
            if found is not None and bias is not None and _is_vector(weight) and dims_of(weight) == dims_of(bias):
                nodes = (*found.nodes, divide, multiply, node)
                attributes = [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", found.eps)]
                return Match("LayerNormalization", nodes, (found.x, weight, bias), attributes)
    return None


@dataclass(frozen=True)
class _Normalisation:
    x: ir.Value
    eps: float
    nodes: Sequence[ir.Node]


def _normalisation(divide: ir.Node) -> _Normalisation | None:
    centred, deviation = divide.inputs
    subtract = None if centred is None else centred.producer()
    root = _made_by(deviation, "Sqrt")
    add = None if root is None else _made_by(root.inputs[0], "Add")
    if subtract is None or subtract.op_type != "Sub" or centred is None or root is None or add is None:
        return None
    for variance, eps in _pairs(add):
        average = _made_by(variance, "ReduceMean")
        square = None if average is None else _square_of(average.inputs[0], centred)
        mean = _made_by(subtract.inputs[1], "ReduceMean")
        number, x = _number(eps), subtract.inputs[0]
        if average is None or square is None or mean is None or number is None or x is None:
            continue
        if mean.inputs[0] is x and _reduces_last(mean) and _reduces_last(average) and len(centred.uses()) == 2:
            return _Normalisation(x, number, (mean, subtract, square, average, add, root))
    return None


def _square_of(value: ir.Value | None, base: ir.Value) -> ir.Node | None:
    power = _made_by(value, "Pow")
    return power if power is not None and power.inputs[0] is base and _is_number(power.inputs[1], 2.0) else None


def _reduces_last(node: ir.Node) -> bool:
    attribute = node.attributes.get("axes")
    axes: Sequence[int] | None = None if attribute is None else attribute.as_ints()
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        axes = [int(axis) for axis in np.asarray(node.inputs[1].const_value.numpy()).reshape(-1)]
    shape = None if node.inputs[0] is None else dims_of(node.inputs[0])
    keep = node.attributes.get("keepdims")
    if axes is None or len(axes) != 1 or (keep is not None and not keep.as_int()):
        return False
    return axes[0] == -1 or (shape is not None and axes[0] == len(shape) - 1)


def _is_vector(value: ir.Value) -> bool:
    """Whether the rank is 1; the length may differ from the axis, as the lowering then broadcasts."""
    shape = dims_of(value)
    return shape is not None and len(shape) == 1


# -- GELU ---------------------------------------------------------------------------------------------------------


def _gelu(node: ir.Node) -> Match | None:
    """`0.5 * x * (1 + erf(x / sqrt(2)))`, multiplied in any order."""
    factors, nodes = _factors(node)
    if len(factors) != 3 or sum(_is_number(factor, 0.5) for factor in factors) != 1:
        return None
    others = [factor for factor in factors if not _is_number(factor, 0.5)]
    for x, inner in (others, others[::-1]):
        add = _made_by(inner, "Add")
        error = None if add is None else _made_by(_with_number(add, 1.0), "Erf")
        scaled = None if error is None else _scaled_by_root_half(error.inputs[0], x)
        if add is not None and error is not None and scaled is not None:
            return Match("Gelu", (scaled, error, add, *nodes), (x,))
    return None


def _factors(node: ir.Node) -> tuple[list[ir.Value], list[ir.Node]]:
    """The three factors of a product of two Mul nodes, and the nodes in order."""
    for inner, outer in _pairs(node):
        multiply = _made_by(inner, "Mul")
        if multiply is not None and outer is not None:
            factors = [value for value in (*multiply.inputs, outer) if value is not None]
            if any(_is_number(value, 0.5) for value in factors):
                return factors, [multiply, node]
    return [], []


def _scaled_by_root_half(value: ir.Value | None, x: ir.Value) -> ir.Node | None:
    divide = _made_by(value, "Div")
    if divide is not None and divide.inputs[0] is x and _is_number(divide.inputs[1], 2.0**0.5):
        return divide
    multiply = _made_by(value, "Mul")
    return multiply if multiply is not None and _with_number(multiply, 0.5**0.5) is x else None


# -- attention ----------------------------------------------------------------------------------------------------


def _attention(node: ir.Node) -> Match | None:
    """`softmax(q @ k' * scale) @ v` over the last two of four axes, without a mask."""
    softmax = _made_by(node.inputs[0], "Softmax")
    if softmax is None or not _over_last_axis(softmax):
        return None
    scale, scores, nodes = _unscaled(softmax.inputs[0])
    product = _made_by(scores, "MatMul")
    if product is None:
        return None
    query, keys = product.inputs
    transpose = _made_by(keys, "Transpose")
    if transpose is None or _permutation(transpose) != (0, 1, 3, 2):
        return None
    values = node.inputs[1]
    if any(value is None or len(dims_of(value) or _FOUR) != 4 for value in (query, transpose.inputs[0], values)):
        return None
    attributes = [ir.AttrFloat32("scale", scale)]
    nodes = [transpose, product, *nodes, softmax, node]
    return Match("Attention", nodes, (query, transpose.inputs[0], values), attributes)


_FOUR = (None,) * 4
"""Assumed where shapes are unknown: the keys have four axes, as their transposition shows; torch broadcasts as ONNX."""


def _unscaled(value: ir.Value | None) -> tuple[float, ir.Value | None, list[ir.Node]]:
    """The factor a value was scaled by, the value before, and the node in between."""
    multiply, divide = _made_by(value, "Mul"), _made_by(value, "Div")
    if multiply is not None:
        for scaled, factor in _pairs(multiply):
            number = _number(factor)
            if number is not None:
                return number, scaled, [multiply]
    if divide is not None:
        number = _number(divide.inputs[1])
        if number:
            return 1.0 / number, divide.inputs[0], [divide]
    return 1.0, value, []


def _over_last_axis(softmax: ir.Node) -> bool:
    axis = softmax.attributes.get("axis")
    shape = None if softmax.inputs[0] is None else dims_of(softmax.inputs[0])
    chosen = -1 if axis is None else axis.as_int()
    return chosen in (-1, len(shape or _FOUR) - 1)


def _permutation(transpose: ir.Node) -> tuple[int, ...] | None:
    attribute = transpose.attributes.get("perm")
    return None if attribute is None else tuple(attribute.as_ints())


_FINDERS: dict[str, tuple[Callable[[ir.Node], Match | None], ...]] = {
    "Add": (_linear, _layer_norm),
    "Mul": (_gelu,),
    "MatMul": (_attention,),
}
