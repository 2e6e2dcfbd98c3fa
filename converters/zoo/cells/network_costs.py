"""Parameters and multiply-accumulates of the network of a genotype, without weights or images."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from .genotype import Genotype
from .searched import SearchedNetwork

__all__ = ["network_costs"]


def network_costs(genotype: Genotype, height: int, width: int, *, embedding_size: int = 512) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one image of a height and width in pixels.

    Convolutions, linear layers and the products of attention are counted, as in `facts`; pools and BatchNorms are not.

    Raises:
        InputError: images too low for `part`.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        network = SearchedNetwork(genotype=genotype.to_json(), embedding_size=embedding_size).eval()
        with FlopCounterMode(display=False) as flops:
            network(torch.empty(1, 3, height, width))
    return sum(parameter.numel() for parameter in network.parameters()), flops.get_total_flops() // 2
