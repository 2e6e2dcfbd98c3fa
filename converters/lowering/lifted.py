"""The operators `lift.py` makes of patterns: layers that an exporter had taken apart."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from .normalisations import layer_normalization
from .operation import Lowered, Op
from .registry import LIFTED_DOMAIN, lowers

__all__: list[str] = []


@lowers("LayerNormalization", seen=1, trainable=True, domain=LIFTED_DOMAIN)
def layer_norm(op: Op) -> Lowered:
    """`nn.LayerNorm` over the last axis."""
    op.set_output_shape(op.shape(0) or ())
    return layer_normalization(op)


@lowers("Linear", seen=1, trainable=True, domain=LIFTED_DOMAIN)
def linear(op: Op) -> Lowered:
    """`x @ W + b`; ONNX stores W as [inputs, outputs]."""
    shape = op.shape(1) or ()
    op.set_output_shape([*(op.shape(0) or ())[:-1], shape[1]])
    options = {"in_features": shape[0], "out_features": shape[1], "bias": True}
    weights = {"weight": op.weight(1, "transpose"), "bias": op.weight(2)}
    return op.module(nn.Linear, options, op.x(0), weights=weights)


@lowers("Gelu", seen=1, domain=LIFTED_DOMAIN)
def gelu(op: Op) -> Lowered:
    """The exact GELU."""
    op.set_output_shape(op.shape(0) or ())
    return op.call(F.gelu, op.x(0))


@lowers("Attention", seen=1, domain=LIFTED_DOMAIN)
def attention(op: Op) -> Lowered:
    """Scaled dot-product attention over [N, heads, tokens, features]."""
    op.set_output_shape([*(op.shape(0) or ())[:-1], (op.shape(2) or (None,))[-1]])
    scale = op.attr_float("scale", 1.0)
    return op.call(F.scaled_dot_product_attention, op.x(0), op.x(1), op.x(2), scale=scale)
