"""What cells cost: their expected latency in the loss of alpha, and the budget that a random search gets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...converters.records.preprocessing import Preprocessing
from ...converters.zoo.cells.network_costs import network_costs
from ..config.search import SearchConfig
from ..network.search_backbone import SearchBackbone
from .cells import random_cells

__all__ = ["latency_penalty", "random_budget"]

_CELLS = 8
"""Random cells whose mean cost stands for that of a cell."""


def latency_penalty(expected_ms: Tensor, target_ms: float, weight: float) -> Tensor:
    """W max(0, log(expected / target)), a scalar."""
    return weight * (expected_ms / target_ms).log().clamp_min(0)


def random_budget(search: SearchConfig, steps: int, preprocessing: Preprocessing) -> int:
    """Steps of single networks that cost as many multiplications as a mixed search of `steps` steps.

    Each step of its weights goes through the supernet once, and after the warm-up each step of alpha once in first
    order, four times in second order.
    """
    height, width = preprocessing.height, preprocessing.width
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        mixed = SearchBackbone(search.model_copy(update={"method": "mixed", "guard": "none"})).eval()
        with FlopCounterMode(display=False) as counter:
            mixed(torch.zeros(1, 3, height, width))
    cells = random_cells(search, _CELLS, 0)
    single = sum(network_costs(each.genotype, height, width, embedding_size=search.embedding_size)[1] for each in cells)
    passes = 1 + (1 - search.warmup) * (1 if search.order == 1 else 4)
    whole = int(counter.get_total_flops()) // 2
    return max(1, round(steps * passes * whole * len(cells) / single))
