"""The fused operators that `pattern_fusion` creates: layers that an exporter wrote as several nodes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from ...operators.support import FUSED_DOMAIN
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import Dim
from .normalisations import layer_normalization

__all__: list[str] = []


def _keeps_shape(op: Op) -> None:
    shape = op.shape(0)
    if shape is not None:
        op.set_output_shape(shape)


def _changes_last_axis(op: Op, last: Dim) -> None:
    shape = op.shape(0)
    if shape:
        op.set_output_shape([*shape[:-1], last])


@lowers("LayerNormalization", seen=1, trainable=True, domain=FUSED_DOMAIN)
def layer_norm(op: Op) -> Lowered:
    """`nn.LayerNorm` over the last axis (arXiv:1607.06450)."""
    _keeps_shape(op)
    return layer_normalization(op)


@lowers("Linear", seen=1, trainable=True, domain=FUSED_DOMAIN)
def linear(op: Op) -> Lowered:
    """`nn.Linear`: `x @ W + b`; ONNX stores W as [inputs, outputs]."""
    shape = op.shape(1) or ()
    _changes_last_axis(op, shape[1])
    options = {"in_features": shape[0], "out_features": shape[1], "bias": True}
    weights = {"weight": op.weight(1, "transpose"), "bias": op.weight(2)}
    return op.module(nn.Linear, options, op.x(0), weights=weights)


@lowers("Gelu", seen=1, domain=FUSED_DOMAIN)
def gelu(op: Op) -> Lowered:
    """The exact GELU (arXiv:1606.08415)."""
    _keeps_shape(op)
    return op.call(F.gelu, op.x(0))


@lowers("Attention", seen=1, domain=FUSED_DOMAIN)
def attention(op: Op) -> Lowered:
    """Scaled dot-product attention over [N, heads, tokens, features]."""
    values = op.shape(2)
    if values:
        _changes_last_axis(op, values[-1])
    scale = op.attr_float("scale", 1.0)
    return op.call(F.scaled_dot_product_attention, op.x(0), op.x(1), op.x(2), scale=scale)
