"""Parameters and multiply-accumulates of a genotype, against a count by hand."""

import numpy as np
import torch

from rtool.converters.zoo.cells.drawing import random_genotype
from rtool.converters.zoo.cells.genotype import Genotype
from rtool.converters.zoo.cells.network_costs import network_costs
from rtool.converters.zoo.cells.searched import SearchedNetwork
from rtool.converters.zoo.cells.space import SearchSpace


def test_costs_are_those_counted_by_hand():
    node = ((("skip", 0), ("sep3", 1)),)
    found = Genotype(SearchSpace(nodes=1, channels=4), node, node)
    parameters, macs = network_costs(found, 32, 16, embedding_size=8)
    network = SearchedNetwork(genotype=found.to_json(), embedding_size=8)
    assert parameters == sum(parameter.numel() for parameter in network.parameters())
    pixels, half, quarter = 8 * 4, 4 * 2, 2 * 1  # of the stem's output 8x4, and behind each reduction
    stem = 16 * 8 * 3 * 2 * 9 + pixels * 2 * 4 * 9

    def separable(channels: int, outside: int) -> int:
        return 2 * outside * channels * (9 + channels)  # twice depthwise and 1 x 1, the stride in the first

    cells = 2 * pixels * 4 * 4 + separable(4, pixels)  # cell 0: two inputs 4 -> 4, skip free
    cells += 2 * pixels * 4 * 8 + half * 8 * 8 + separable(8, half)  # cell 1 halves: 4 -> 8
    # cell 2 halves again: input k-2 of 4 channels in the size of cell 1's input, through the strided form
    cells += half * 4 * 16 + half * 8 * 16 + quarter * 16 * 16 + separable(16, quarter)
    assert macs == stem + cells + 16 * 8


def test_counting_draws_no_random_numbers():
    found = random_genotype(SearchSpace(nodes=2, channels=4), np.random.default_rng(0))
    before = torch.get_rng_state()
    network_costs(found, 64, 32)
    assert torch.equal(before, torch.get_rng_state())
