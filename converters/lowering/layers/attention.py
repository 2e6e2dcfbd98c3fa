"""Attention, linear attention, rotary embeddings, key-value caches, causal convolutions with state."""

from __future__ import annotations

import operator
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import fx

from ..exact.attention import attention, linear_attention, merge_heads, rotary_embedding, split_heads, update_cache
from ..operation import Lowered, Op
from ..registry import lowers
from ..values import torch_dtype

__all__: list[str] = []


def _optional(op: Op, index: int) -> fx.Node | None:
    return op.x(index) if op.has(index) else None


@lowers("Attention", since=23, seen=25)
def attention_(op: Op) -> Lowered:
    """Attention (arXiv:1706.03762): `F.scaled_dot_product_attention` where `_is_plain`, else written out."""
    rank = op.rank(0)
    heads = (op.attr_int("q_num_heads"), *[op.attr_int("kv_num_heads")] * 2) if rank == 3 else None
    query, key, value = (
        op.x(index) if heads is None else op.call(split_heads, op.x(index), heads[index]) for index in range(3)
    )
    past: Any = 0
    if op.has(4):
        past = op.size(4, 2)
        key = op.call(torch.cat, [op.x(4), key], 2)
        value = op.call(torch.cat, [op.x(5), value], 2)
    scale = op.attr_float("scale", 0.0) if op.has_attribute("scale") else None
    if _is_plain(op):
        y, scores = _scaled_dot_product(op, query, key, value, scale), None
    else:
        y, scores = _written_out(op, query, key, value, past, scale)
    return [y if heads is None else op.call(merge_heads, y), key, value, scores]


def _is_plain(op: Op) -> bool:
    """Whether torch's function computes the same: no cache, mask, soft cap, window, precision or scores output."""
    asks_more = any(op.has(index) for index in (4, 6)) or op.uses_output(3) or op.attr_float("softcap", 0.0) > 0
    windowed = op.attr_int("left_window_size", -1) >= 0 or op.attr_int("right_window_size", -1) >= 0
    # A mask may allow a query no key at all, and may be shorter than the keys.
    return not (asks_more or windowed or op.has(3) or op.has_attribute("softmax_precision"))


def _scaled_dot_product(op: Op, query: fx.Node, key: fx.Node, value: fx.Node, scale: float | None) -> fx.Node:
    options: dict[str, Any] = {}
    if op.attr_int("is_causal", 0):
        options["is_causal"] = True
    if scale is not None:
        options["scale"] = scale
    if not _same_heads(op):
        options["enable_gqa"] = True
    return op.call(F.scaled_dot_product_attention, query, key, value, **options)


def _same_heads(op: Op) -> bool:
    if op.rank(0) == 3:
        return op.attr_int("q_num_heads") == op.attr_int("kv_num_heads")
    query, key = op.shape(0) or (), op.shape(1) or ()
    return isinstance(query[1], int) and query[1] == key[1]


def _written_out(
    op: Op, query: fx.Node, key: fx.Node, value: fx.Node, past: Any, scale: float | None
) -> tuple[fx.Node, fx.Node | None]:
    asked = op.has_attribute("softmax_precision")
    precision = torch_dtype(ir.DataType(op.attr_int("softmax_precision"))) if asked else None
    both = op.call(
        attention,
        query,
        key,
        value,
        _optional(op, 3),
        _optional(op, 6),
        past,
        scale,
        bool(op.attr_int("is_causal", 0)),
        op.attr_int("left_window_size", -1),
        op.attr_int("right_window_size", -1),
        op.attr_float("softcap", 0.0),
        precision,
        op.attr_int("qk_matmul_output_mode", 0),
    )
    shown = op.call(operator.getitem, both, 1) if op.uses_output(3) else None
    return op.call(operator.getitem, both, 0), shown


@lowers("LinearAttention", since=27, seen=27)
def linear_attention_(op: Op) -> Lowered:
    """Linear attention, as a recurrence over the steps of the sequence.

    The rule "linear" is arXiv:2006.16236, "gated_delta" is "Gated Delta Networks", arXiv:2412.06464.
    """
    rule = op.attr_string("update_rule", "gated_delta")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        raise op.refuse(f"update_rule={rule} is unknown")
    if op.has(4) != ("gated" in rule) or op.has(5) != ("delta" in rule):
        raise op.refuse(f"update_rule={rule} does not fit the inputs given; re-export the model")
    heads, key_heads = op.attr_int("q_num_heads"), op.attr_int("kv_num_heads")
    if key_heads < 1 or heads % key_heads:
        raise op.refuse(f"{heads} query heads are not a multiple of {key_heads} key heads; re-export the model")
    inputs = [op.x(0), op.x(1), op.x(2), *(_optional(op, index) for index in (3, 4, 5))]
    both = op.call(linear_attention, *inputs, heads, key_heads, op.attr_float("scale", 0.0))
    return [op.call(operator.getitem, both, 0), op.call(operator.getitem, both, 1) if op.uses_output(1) else None]


@lowers("RotaryEmbedding", since=23, seen=23)
def rotary_embedding_(op: Op) -> Lowered:
    """Rotary position embedding: pairs of features rotated by an angle per position (RoFormer, arXiv:2104.09864)."""
    is_joined = op.rank(0) == 3
    x = op.call(split_heads, op.x(0), op.attr_int("num_heads")) if is_joined else op.x(0)
    interleaved, size = bool(op.attr_int("interleaved", 0)), op.attr_int("rotary_embedding_dim", 0)
    y = op.call(rotary_embedding, x, op.x(1), op.x(2), _optional(op, 3), interleaved, size)
    return op.call(merge_heads, y) if is_joined else y


@lowers("TensorScatter", since=24, seen=24)
def tensor_scatter(op: Op) -> Lowered:
    """A key-value cache with new entries written into it."""
    circular = op.attr_string("mode", "linear") == "circular"
    return op.call(update_cache, op.x(0), op.x(1), _optional(op, 2), op.attr_int("axis", -2), circular)


@lowers("CausalConvWithState", since=27, seen=27)
def causal_conv_with_state(op: Op) -> Lowered:
    """A causal depthwise convolution that continues from the state of an earlier call."""
    width, channels = op.size(1, 2), op.size(1, 0)
    activation = op.attr_string("activation", "none")
    if activation not in ("none", "silu", "swish") or not isinstance(width, int) or not isinstance(channels, int):
        raise op.refuse(f"activation={activation} or a weight of unknown shape; give the weight a fixed shape")
    if op.has(3):
        padded = op.call(torch.cat, [op.x(3), op.x(0)], 2)
    else:
        padded = op.call(F.pad, op.x(0), [width - 1, 0])
    y = op.call(F.conv1d, padded, op.x(1), _optional(op, 2), groups=channels)
    if activation != "none":
        y = op.call(F.silu, y)
    if not op.uses_output(1):
        return y
    length = op.call(operator.sub, op.method("size", padded, 2), width - 1)
    return y, op.call(torch.narrow, padded, 2, length, width - 1)
