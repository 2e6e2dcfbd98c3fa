"""Matrix products: Gemm and MatMul, `nn.Linear` when the right factor is a constant matrix."""

from __future__ import annotations

import operator
from dataclasses import replace

import torch
from torch import fx, nn

from ...records.node_facts import facts_of, set_facts
from ..graph_builder import Weight
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []


@lowers("Gemm", since=1, seen=13, trainable=True)
def gemm(op: Op) -> Lowered:
    """`alpha * A' B' + beta * C`; `nn.Linear` when the factors are 1, B is a weight and C a bias or absent."""
    linear = _linear(op)
    if linear is not None:
        set_facts(
            linear, replace(facts_of(linear), rank=2)
        )  # axis 1 is the features, so a BatchNorm behind it can be folded
        return linear
    left = op.call(torch.t, op.x(0)) if op.attr_int("transA", 0) else op.x(0)
    right = op.call(torch.t, op.x(1)) if op.attr_int("transB", 0) else op.x(1)
    result = op.call(torch.matmul, left, right)
    alpha, beta = op.attr_float("alpha", 1.0), op.attr_float("beta", 1.0)
    if alpha != 1.0:
        result = op.call(operator.mul, result, alpha)
    if not op.has(2):
        return result
    addend = op.x(2) if beta == 1.0 else op.call(operator.mul, op.x(2), beta)
    total = op.call(operator.add, result, addend)
    set_facts(total, replace(facts_of(total), rank=2))
    return total


def _linear(op: Op) -> fx.Node | None:
    shape = op.shape(1)
    if op.attr_int("transA", 0) or op.attr_float("alpha", 1.0) != 1.0 or not op.is_weight(1) or not op.is_float(1):
        return None
    if shape is None or len(shape) != 2:
        return None
    transposed = bool(op.attr_int("transB", 0))
    outputs, inputs = (shape[0], shape[1]) if transposed else (shape[1], shape[0])
    weights = {"weight": op.weight(1, "identity" if transposed else "transpose")}
    if op.has(2):
        bias = _bias(op, outputs)
        if bias is None:
            return None
        weights["bias"] = bias
    options = {"in_features": inputs, "out_features": outputs, "bias": op.has(2)}
    return op.module(nn.Linear, options, op.x(0), weights=weights)


def _bias(op: Op, outputs: object) -> Weight | None:
    """Input 2 as the bias of a Linear, if it has one value per output and is added without a factor; else None."""
    shape = op.shape(2)
    if not op.is_weight(2) or op.attr_float("beta", 1.0) != 1.0 or not isinstance(outputs, int):
        return None
    if shape == (outputs,):
        return op.weight(2)
    return op.weight(2, "reshape", (outputs,)) if shape == (1, outputs) else None


@lowers("MatMul", since=1, seen=13, trainable=True)
def matmul(op: Op) -> Lowered:
    """`nn.Linear` without bias when the right factor is a constant matrix."""
    shape = op.shape(1)
    if op.is_weight(1) and op.is_float(1) and shape is not None and len(shape) == 2:
        options = {"in_features": shape[0], "out_features": shape[1], "bias": False}
        return op.module(nn.Linear, options, op.x(0), weights={"weight": op.weight(1, "transpose")})
    return op.call(torch.matmul, op.x(0), op.x(1))
