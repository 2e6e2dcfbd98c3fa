"""Where the batch may be in the inputs of an operator, so that each image stays by itself.

An operator that sums, normalises or picks along the batch mixes images. Shapes alone do not show that: with a batch of
1 a Softmax over the wrong axis of [1, heads, 1, tokens] has the right shape. `forbidden_axes` names such axes; of
operators that it does not know it names none, and running the rewritten graph decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["BROADCASTING", "forbidden_axes"]

BROADCASTING = frozenset(
    {"Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less"}
    | {"LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"}
)
"""Operators that work entry by entry on inputs of shapes that broadcast."""
_FIRST_AXIS = frozenset(
    {"AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "DeformConv", "DepthToSpace"}
    | {"GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample", "GroupNormalization"}
    | {"InstanceNormalization", "LRN", "LpPool", "MaxPool", "QLinearConv", "SpaceToDepth"}
)
"""Operators whose first input is [images, channels, ...]."""
_SOFTMAX = frozenset({"Hardmax", "LogSoftmax", "Softmax"})
_FROM_AXIS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
_ALONG_AXIS = {"ArgMax": 0, "ArgMin": 0, "LpNormalization": -1, "Split": 0, "TopK": -1}
"""Operator -> default of its attribute `axis`, along which it picks or normalises."""
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})


def forbidden_axes(node: ir.Node, index: int, rank: int, opset: int) -> set[int]:
    """Axes from 0 of input `index` of `node`, of `rank` axes, along which its entries are mixed."""
    kind, every = node.op_type, set(range(rank))
    if kind in _FIRST_AXIS:
        return every - {0} if index == 0 else set()
    if kind == "MatMul":
        return {rank - 1} if index == 0 or rank == 1 else {rank - 2}
    if kind == "Gemm":
        turned = node.attributes.get_int("transA" if index == 0 else "transB", 0)
        return set() if index > 1 else {1 - turned if index == 0 else turned}
    if kind in _RECURRENT:
        return every - {0 if node.attributes.get_int("layout", 0) else 1} if index == 0 else set()
    if index:
        return set()
    if kind in _SOFTMAX:
        axis = node.attributes.get_int("axis", -1 if opset >= 13 else 1) % max(rank, 1)
        return {axis} if opset >= 13 else set(range(axis, rank))  # before opset 13 all axes from `axis` on are one
    if kind in _FROM_AXIS:
        return set(range(node.attributes.get_int("axis", -1) % max(rank, 1), rank))
    if kind in _ALONG_AXIS:
        return {node.attributes.get_int("axis", _ALONG_AXIS[kind]) % max(rank, 1)}
    if kind.startswith("Reduce"):
        return _reduced(node, rank)
    return set()


def _reduced(node: ir.Node, rank: int) -> set[int]:
    attribute = node.attributes.get("axes")
    axes: Sequence[int] | None = None if attribute is None else list(attribute.as_ints())
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(node.inputs[1])
        if tensor is None:
            return set()
        axes = [int(axis) for axis in np.asarray(tensor.numpy()).reshape(-1)]
    if not axes:
        return set() if node.attributes.get_int("noop_with_empty_axes", 0) else set(range(rank))
    return {axis % max(rank, 1) for axis in axes}
