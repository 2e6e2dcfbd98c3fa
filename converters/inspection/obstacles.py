"""What the other commands refuse in a graph, in their words, as far as it shows without converting anything.

1. `onnx2torch` refuses operators without a lowering, and a file without float weights.
2. `export` refuses stored integers besides.

What only a conversion finds (attributes and shapes with which an operator cannot be lowered), `inspect --verify` finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import RtoolError, UnsupportedNode, UnsupportedOperatorsError
from ..files.element_types import FLOATS
from ..graphs.graph_view import GraphView
from ..operators.rows import ROWS
from ..operators.support import OperatorSupport, plain_domain, supporting_row
from ..operators.weight_refusals import (
    FOR_EXPORT_TO_INT8,
    nothing_to_train,
    quantised_weight_of,
    quantised_weight_refused,
)

__all__ = ["obstacles"]


def obstacles(view: GraphView, path: str) -> tuple[str, ...]:
    """The refusals that the graph alone shows; `path` names the file for `onnx2torch`, `view.label` for the others."""
    found: list[RtoolError] = []
    unsupported = _unsupported(view)
    if unsupported:
        found.append(UnsupportedOperatorsError(view.label, unsupported))
    weight = quantised_weight_of(view.proto)
    if weight is not None:
        found.append(quantised_weight_refused(view.label, weight, FOR_EXPORT_TO_INT8))
    if weight is None and not _has_float_weight(view):
        found.append(nothing_to_train(path))
    return tuple(str(error) for error in found)


def _unsupported(view: GraphView) -> Sequence[UnsupportedNode]:
    refused = []
    for node in view.nodes:
        domain = plain_domain(node.domain)
        opset = view.opsets.get(domain, 1)
        reason = supporting_row(_BY_OPERATOR.get((domain, node.op_type)), node.op_type, opset, domain)
        if isinstance(reason, str):
            operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            name = node.name or (node.output[0] if node.output else "") or "?"
            refused.append(UnsupportedNode(name, operator, opset, reason))
    return refused


def _has_float_weight(view: GraphView) -> bool:
    return any(
        tensor.data_type in FLOATS and len(tensor.dims) and name in view.read_values
        for name, tensor in view.stored.items()
    )


def _by_operator() -> Mapping[tuple[str, str], Sequence[OperatorSupport]]:
    rows: dict[tuple[str, str], list[OperatorSupport]] = {}
    for row in ROWS:
        rows.setdefault((row.domain, row.operator), []).append(row)
    return rows


_BY_OPERATOR = _by_operator()
