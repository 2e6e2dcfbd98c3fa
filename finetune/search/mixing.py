"""From alpha to the weights of the operations on each edge, and what the loss of alpha is penalised by.

All is a pure function of alpha [edges, operations], of draws and of how far the search is:

- mixed and partial: softmax over the operations (DARTS, arXiv:1806.09055; PC-DARTS, arXiv:1907.05737).
- sampled: softmax((log softmax(alpha) + G) / t) with G of the standard Gumbel distribution; forward only its largest
  entry, as 1, with the gradient of the soft value (GDAS, arXiv:1910.04465).
- guard sigmoid: sigmoid(alpha) per operation, and w times the mean of -(sigmoid - 1/2)^2 (Fair-DARTS,
  arXiv:1911.12126).
- guard noise: uniform draws of [-w, w] added to the weights (SDARTS-RS, arXiv:2002.05283).
- guard beta: w(t) times the mean over edges of logsumexp(alpha), w growing in proportion to t (Beta-DARTS,
  arXiv:2203.01665).
- guard auxiliary_skip: a further skip per edge, its factor falling in proportion to t to 0 (DARTS-, arXiv:2009.01027).

- edge_weights: alpha has one more column, beta; the weights of an edge are multiplied by the softmax of beta over the
  edges of its node (edge normalisation, PC-DARTS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.search import SearchConfig

__all__ = [
    "Draws",
    "auxiliary_factor",
    "draw",
    "edge_weights",
    "guard_penalty",
    "operation_shares",
    "settled",
    "shares",
    "sharpest",
]

_STRENGTHS = {"none": 0.0, "beta": 50.0, "auxiliary_skip": 1.0, "sigmoid": 10.0, "noise": 0.03}
"""`guard_weight` where it is null."""


@dataclass(frozen=True)
class Draws:
    """The random part of the weights of one pass: float [edges, operations] for each kind of cell, or None."""

    normal: Tensor | None
    reduce: Tensor | None


def operation_shares(alpha: Tensor, config: SearchConfig) -> Tensor:
    """The share of each operation on its edge, [edges, operations], differentiable; those of edges left out."""
    own = _operations(alpha, config)
    return own.sigmoid() if config.guard == "sigmoid" else own.softmax(dim=-1)


def shares(alpha: Tensor, config: SearchConfig) -> Tensor:
    """The weights that alpha alone gives, [edges, operations], differentiable; what a cell is read from."""
    return _weighed(operation_shares(alpha, config), alpha, config)


def settled(alpha: Tensor, config: SearchConfig) -> Tensor:
    """The weights of evaluation, [edges, operations]: `shares`; of sampled paths the likeliest operations."""
    own = operation_shares(alpha, config)
    return _weighed(sharpest(own) if config.method == "sampled" else own, alpha, config)


def _operations(alpha: Tensor, config: SearchConfig) -> Tensor:
    return alpha[:, : len(config.operations)]


def _weighed(weights: Tensor, alpha: Tensor, config: SearchConfig) -> Tensor:
    """Weights of operations times those of their edges, where these are learned."""
    if not config.edge_weights:
        return weights
    beta = alpha[:, len(config.operations)]
    nodes = [beta[edges.start : edges.stop].softmax(dim=0) for edges in config.space().node_edges]
    return weights * torch.cat(nodes)[:, None]


def draw(config: SearchConfig, shape: tuple[int, int], seed: int, number: int) -> Draws:
    """The draws of pass `number` of a search, on the CPU, the same on every process.

    Args:
        config: The search.
        shape: Edges and operations.
        seed: Of the run.
        number: Of the pass.
    """
    if config.method != "sampled" and config.guard != "noise":
        return Draws(None, None)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    values = [torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    if config.method == "sampled":
        tiny = torch.finfo(torch.float64).tiny
        values = [-(-each.clamp_min(tiny).log()).clamp_min(tiny).log() for each in values]
    else:
        values = [(2 * each - 1) * strength(config) for each in values]
    return Draws(*(each.float() for each in values))


def edge_weights(alpha: Tensor, drawn: Tensor | None, config: SearchConfig, done: float) -> Tensor:
    """The weights of one pass: [edges, operations], differentiable in alpha.

    Args:
        alpha: [edges, operations], with edge_weights one column more.
        drawn: What was drawn for this kind of cell.
        config: The search.
        done: Share of the search that is behind, 0..1, for the temperature.
    """
    if drawn is None:
        return shares(alpha, config)
    drawn = drawn.to(alpha)
    if config.method != "sampled":
        return _weighed(operation_shares(alpha, config) + drawn, alpha, config)
    first, last = config.temperature
    own = _operations(alpha, config).log_softmax(dim=-1)
    soft = ((own + drawn) / (first + (last - first) * done)).softmax(dim=-1)
    # Subtracted first: (hard - soft) + soft is not exactly 1, and operations of weight 0 are not computed.
    return _weighed(sharpest(soft) + (soft - soft.detach()), alpha, config)


def sharpest(weights: Tensor) -> Tensor:
    """1 at the largest entry of each row, the first of equal ones, and 0 elsewhere; without gradient."""
    hard = torch.zeros_like(weights, requires_grad=False)
    return hard.scatter_(1, weights.detach().argmax(dim=1, keepdim=True), 1.0)


def strength(config: SearchConfig) -> float:
    """`guard_weight`, or what it is where it is null."""
    return _STRENGTHS[config.guard] if config.guard_weight is None else config.guard_weight


def guard_penalty(alphas: tuple[Tensor, ...], config: SearchConfig, done: float) -> Tensor | None:
    """What the guard adds to the loss of alpha, a scalar; None where it adds nothing.

    Args:
        alphas: As in `edge_weights`, of each kind of cell.
        config: The search.
        done: Share of the search that is behind, 0..1.
    """
    values = torch.cat([_operations(alpha, config) for alpha in alphas])
    if config.guard == "beta":
        return strength(config) * done * values.logsumexp(dim=1).mean()
    if config.guard == "sigmoid":
        return -strength(config) * (values.sigmoid() - 0.5).square().mean()
    return None


def auxiliary_factor(config: SearchConfig, done: float) -> float:
    """The factor of the auxiliary skip; 0 without it."""
    return strength(config) * (1 - done) if config.guard == "auxiliary_skip" else 0.0
