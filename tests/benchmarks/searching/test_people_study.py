"""The percentile of a found cell and the verdict on it, from numbers by hand."""

import numpy as np

from rtool.benchmarks.searching.people_study import as_large_as, percentiles, report
from rtool.benchmarks.searching.retraining import Retrained
from rtool.converters.zoo.cells.drawing import random_genotype
from rtool.converters.zoo.cells.network_costs import network_costs
from rtool.converters.zoo.cells.space import SearchSpace


def test_the_percentile_counts_random_cells_below_the_found_one_and_its_seeds():
    random = [Retrained((value, value), 1.0) for value in (0.1, 0.2, 0.3, 0.4)]
    assert percentiles(Retrained((0.15, 0.35, 0.4), 1.0), random) == (50.0, 25.0, 75.0)


def test_the_verdict_states_noise_and_how_many_found_cells_reach_the_aim():
    row = {"parameters": 10, "macs": 20}
    networks = {
        "random 0": {**row, "role": "random", "mAP": [0.2, 0.4]},
        "random 1": {**row, "role": "random", "mAP": [0.4, 0.6]},
        "found 0": {**row, "role": "found", "mAP": [0.5, 0.7], "percentile": (100.0, 50.0, 100.0)},
        "found 1": {**row, "role": "found", "mAP": [0.3, 0.5], "percentile": (50.0, 0.0, 50.0)},
    }
    text = report({"networks": networks})
    assert "| found 0 | 0.500 0.700 | 0.600 | 10 | 20 | 100 (50 to 100) |" in text
    assert "seeds of its training 0.141; of the means of random cells 0.141" in text
    assert "at or above the 75th percentile: 1 of 2" in text


def test_a_cell_is_made_as_large_as_another_network():
    cell = random_genotype(SearchSpace(channels=8, nodes=2), np.random.default_rng(0))
    wider = as_large_as(cell, 2_000_000)
    assert wider.normal == cell.normal
    assert abs(network_costs(wider, 64, 32, embedding_size=128)[1] / 2_000_000 - 1) < 0.3
