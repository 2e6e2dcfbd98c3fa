"""How random networks come from a feature map [N, C, H, W] to one vector [N, C] per image."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["POOLS", "AttentionPool", "ClassToken"]


class GeM(nn.Module):
    """Generalised mean (Radenovic et al., 2018, arXiv:1711.02512), its exponent trained or fixed."""

    def __init__(self, rng: random.Random, channels: int) -> None:  # noqa: ARG002 (all blocks are made alike)
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0])) if rng.random() < 0.5 else 3.0
        self.by_pool = rng.random() < 0.5

    def forward(self, x: Tensor) -> Tensor:
        powered = x.clamp(min=1e-6).pow(self.p)
        pooled = F.adaptive_avg_pool2d(powered, 1).flatten(1) if self.by_pool else powered.mean((-2, -1))
        return pooled.pow(1.0 / self.p)


class AttentionPool(nn.Module):
    """One trained query over all places, by hand or as CLIP's (the mean is the query)."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, channels)) if rng.random() < 0.5 else None
        heads = rng.choice([h for h in (1, 2) if channels % h == 0])
        self.own = rng.random() < 0.5
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.key, self.value = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """One vector per image."""
        tokens = x.flatten(2).transpose(1, 2)
        query = tokens.mean(1, keepdim=True) if self.query is None else self.query.expand(x.shape[0], -1, -1)
        if not self.own:
            return self.attention(query, tokens, tokens, need_weights=False)[0].flatten(1)  # type: ignore[no-any-return]
        weights = (query @ self.key(tokens).transpose(1, 2) * x.shape[1] ** -0.5).softmax(-1)
        return (weights @ self.value(tokens)).squeeze(1)  # type: ignore[no-any-return]


class MeanMax(nn.Module):
    """The mean and the largest beside each other, each in one of its spellings."""

    def __init__(self, rng: random.Random, channels: int) -> None:  # noqa: ARG002 (all blocks are made alike)
        super().__init__()
        self.form = rng.choice(("pool", "reduce", "flat"))

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "pool":
            return (F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1)).view(x.shape[0], -1)
        if self.form == "reduce":
            return x.mean((2, 3)) + x.amax((2, 3))
        flat = x.flatten(2)
        return flat.mean(-1) + flat.max(-1)[0]


class ClassToken(nn.Module):
    """A small transformer over the places, read at its class token."""

    def __init__(self, rng: random.Random, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, channels))
        self.norm, self.after = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention, self.qkv = (
            nn.MultiheadAttention(channels, 1, batch_first=True),
            nn.Linear(channels, 3 * channels),
        )
        self.own = rng.random() < 0.5
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """One vector per image."""
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], 1)
        normed = self.norm(tokens)
        if self.own:
            q, k, v = self.qkv(normed).chunk(3, -1)
            tokens = tokens + (q @ k.transpose(1, 2) * x.shape[1] ** -0.5).softmax(-1) @ v
        else:
            tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return self.after(tokens + self.mlp(tokens))[:, 0]  # type: ignore[no-any-return]


POOLS: tuple[Callable[[random.Random, int], nn.Module], ...] = (GeM, AttentionPool, MeanMax, ClassToken)
