"""ONNX's Attention in full: caches, per-sample lengths, sliding windows, soft caps, rows without any allowed key;
rotary embeddings and cache updates.

`layers/attention.py` uses `F.scaled_dot_product_attention` instead where that computes the same. Shapes: B batch,
H query heads, G key heads, L queries, S keys, D and E head sizes.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "attention",
    "flex_mix",
    "flex_scores",
    "linear_attention",
    "merge_heads",
    "rotary_embedding",
    "split_heads",
    "update_cache",
]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, H * D] to [B, H, L, D]."""
    return x.reshape(x.size(0), x.size(1), heads, x.size(2) // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, L, D] to [B, L, H * D]."""
    return x.transpose(1, 2).flatten(2)


def _allowed(
    queries: int, keys: int, offset: int | Tensor, causal: bool, left: int, right: int, device: torch.device
) -> Tensor:
    """The keys that causality and window allow each query: bool [L, S], or [B, 1, L, S] with one offset per sample."""
    distance = torch.arange(queries, device=device).unsqueeze(1) - torch.arange(keys, device=device)
    if isinstance(offset, Tensor):
        distance = distance + offset.reshape(-1, 1, 1, 1)
    else:
        distance = distance + offset
    allowed = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        allowed = allowed & (distance >= 0)
    if left >= 0:
        allowed = allowed & (distance <= left)
    if right >= 0:
        allowed = allowed & (distance >= -right)
    return allowed


def _additive(allowed: Tensor, like: Tensor) -> Tensor:
    """Zero where allowed, minus infinity elsewhere."""
    return torch.where(allowed, 0.0, -torch.inf).to(like.dtype)


def _bias(
    query: Tensor,
    keys: int,
    mask: Tensor | None,
    lengths: Tensor | None,
    past: int,
    causal: bool,
    left: int,
    right: int,
) -> Tensor:
    """The sum that is added to the scores: mask, causality, window and padding."""
    queries = query.size(2)
    bias = torch.zeros((queries, keys), dtype=query.dtype, device=query.device)
    if mask is not None:
        additive = _additive(mask, query) if mask.dtype == torch.bool else mask
        missing = keys - mask.size(-1)
        bias = bias + (F.pad(additive, [0, missing], value=-torch.inf) if missing > 0 else additive)
    if causal or left >= 0 or right >= 0:
        offset = lengths - queries if lengths is not None else past
        bias = bias + _additive(_allowed(queries, keys, offset, causal, left, right, query.device), query)
    if lengths is not None:
        inside = torch.arange(keys, device=query.device) < lengths.reshape(-1, 1, 1, 1)
        bias = bias + _additive(inside, query)
    return bias


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    past: int,
    scale: float | None,
    causal: bool,
    left: int,
    right: int,
    softcap: float,
    precision: torch.dtype | None,
    shown: int,
) -> tuple[Tensor, Tensor]:
    """Attention of `query` [B, H, L, D] over `key` [B, G, S, D] and `value` [B, G, S, E].

    `past` keys come before the first query; with `lengths` [B] only that many keys of each sample are valid. `shown`
    selects the second result: scores (0), soft-capped scores (1), scores with the bias (2), or probabilities (3).
    """
    groups = query.size(1) // key.size(1)
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    factor = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    root = torch.full((), math.sqrt(factor), dtype=query.dtype, device=query.device)
    scores = torch.matmul(query * root, (key * root).transpose(-1, -2))
    capped = softcap * torch.tanh(scores / softcap) if softcap > 0 else scores
    bias = _bias(query, key.size(2), mask, lengths, past, causal, left, right)
    biased = capped + bias
    nothing = torch.isneginf(bias.amax(-1, keepdim=True))
    # Before the softmax too: the gradient of a row of minus infinities is NaN, even where nothing reads the row.
    some = biased.masked_fill(nothing, 0.0)
    weights = torch.softmax(some if precision is None else some.to(precision), -1)
    weights = torch.where(nothing, 0.0, weights).to(query.dtype)
    return torch.matmul(weights, value), (scores, capped, biased, weights)[shown]


def flex_scores(query: Tensor, key: Tensor, scale: float | None, precision: torch.dtype) -> Tensor:
    """Scaled scores [B, H, L, S] of `query` [B, H, L, D] and `key` [B, G, S, D]."""
    key = key.repeat_interleave(query.size(1) // key.size(1), 1)
    factor = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    root = torch.full((), math.sqrt(factor), dtype=query.dtype, device=query.device)
    return torch.matmul(query * root, (key * root).transpose(-1, -2)).to(precision)


def flex_mix(probabilities: Tensor, value: Tensor) -> Tensor:
    """Values [B, G, S, E] weighted by probabilities [B, H, L, S], computed in the dtype of the probabilities."""
    groups = probabilities.size(1) // value.size(1)
    values = value.repeat_interleave(groups, 1).to(probabilities.dtype)
    return torch.matmul(probabilities, values).to(value.dtype)


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor | None,
    decay: Tensor | None,
    beta: Tensor | None,
    heads: int,
    key_heads: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention with a recurrent state instead of keys: a gate when `decay`, the delta rule when `beta` is given.

    `query`, `key`, `value` are [B, T, heads * size]; the state is [B, G, D, E], computed in float32 at least.
    """
    precision = torch.promote_types(query.dtype, torch.float32)
    queries, keys, values = (
        split_heads(x, count).to(precision) for x, count in ((query, heads), (key, key_heads), (value, key_heads))
    )
    scale = scale if scale else 1 / math.sqrt(queries.size(-1))
    dtype = query.dtype if state is None else state.dtype
    shape = (keys.size(0), key_heads, keys.size(-1), values.size(-1))
    memory = torch.zeros(shape, dtype=precision, device=query.device) if state is None else state.to(precision)
    gates = None if decay is None else split_heads(decay, key_heads).to(precision).exp()
    rates = None if beta is None else split_heads(beta, beta.size(-1)).to(precision)
    outputs = []
    for step in range(queries.size(2)):
        if gates is not None:
            memory = memory * gates[:, :, step].unsqueeze(-1)
        written = values[:, :, step]
        if rates is not None:
            written = rates[:, :, step] * (written - torch.einsum("bhde,bhd->bhe", memory, keys[:, :, step]))
        memory = memory + keys[:, :, step].unsqueeze(-1) * written.unsqueeze(-2)
        read = memory.repeat_interleave(heads // key_heads, 1)
        outputs.append(scale * torch.einsum("bhd,bhde->bhe", queries[:, :, step], read))
    return merge_heads(torch.stack(outputs, 2)).to(query.dtype), memory.to(dtype)


def rotary_embedding(
    x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, interleaved: bool, size: int
) -> Tensor:
    """Rotate the first `size` features (all if 0) of `x` [B, H, L, D] by the angles of its positions.

    `cos` and `sin` are [positions, size / 2] when `positions` [B, L] are given, else [B, L, size / 2].
    """
    size = size or x.size(-1)
    turned, rest = x[..., :size], x[..., size:]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        turned = torch.stack((real, imaginary), -1).flatten(-2)
    else:
        turned = torch.cat((real, imaginary), -1)
    return torch.cat((turned, rest), -1)


def update_cache(cache: Tensor, update: Tensor, starts: Tensor | None, axis: int, circular: bool) -> Tensor:
    """`cache` with `update` written along `axis`, for each sample from its own start on."""
    axis = axis % cache.dim()
    steps = torch.arange(update.size(axis), device=cache.device)
    first = torch.zeros(cache.size(0), dtype=torch.int64, device=cache.device) if starts is None else starts
    positions = first.unsqueeze(1) + steps
    if circular:
        positions = positions % cache.size(axis)
    shape = [1] * cache.dim()
    shape[0], shape[axis] = positions.shape
    return cache.scatter(axis, positions.reshape(shape).expand_as(update), update)
