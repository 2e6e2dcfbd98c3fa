"""FlexAttention of the preview domain: attention whose scores and probabilities subgraphs may modify."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import fx

from ..exact.attention import flex_mix, flex_scores
from ..operation import Lowered, Op
from ..registry import lowers
from ..subgraphs import lower_copy, refused_inside
from ..values import torch_dtype

__all__: list[str] = []


@lowers("FlexAttention", since=1, seen=1, domain="ai.onnx.preview")
def flex_attention(op: Op) -> Lowered:
    """Scores, `score_mod`, softmax, `prob_mod`, then the weighted sum of the values."""
    is_half = op.dtype(0) in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    stated = op.attr_int("softmax_precision", 0)
    precision = ir.DataType(stated) if stated else ir.DataType.FLOAT if is_half else op.dtype(0)
    scale = op.attr_float("scale", 0.0) if op.has_attribute("scale") else None
    scores = op.call(flex_scores, op.x(0), op.x(1), scale, torch_dtype(precision))
    probabilities = op.call(torch.softmax, _modified(op, "score_mod", scores, precision), -1)
    return op.call(flex_mix, _modified(op, "prob_mod", probabilities, precision), op.x(2))


def _modified(op: Op, name: str, tensor: fx.Node, dtype: ir.DataType) -> fx.Node:
    """Apply the subgraph in attribute `name` to a tensor [B, H, L, S]; without the attribute, return the tensor."""
    graph = op.raw_attribute(name)
    if not isinstance(graph, ir.Graph):
        return tensor
    query, key = op.shape(0), op.shape(1)
    if query is None or key is None:
        raise op.refuse("the shape of an input is unknown; give the graph inputs their shapes")
    shape = ir.Shape([*query[:3], key[2]])
    value = ir.Value(name=f"{op.node.name}_{name}", type=ir.TensorType(dtype), shape=shape)
    op.environment[value] = tensor
    (changed,) = lower_copy(op, graph, [value], name)
    result = op.environment.get(changed)
    if not isinstance(result, fx.Node):
        raise refused_inside(op, changed)
    return result
