"""The table of operation times has a time at every place, and what is free costs nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import rtool
from rtool.benchmarks.cell_operations import _Frame, measure_operations, prediction
from rtool.converters.zoo.cells.drawing import random_genotype
from rtool.converters.zoo.cells.latency_table import places, read_latency_table
from rtool.converters.zoo.cells.searched import SearchedNetwork
from rtool.converters.zoo.cells.space import SearchSpace
from rtool.errors import ConfigError, InputError
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.config.files import parse_config

SPACE = SearchSpace(operations=("none", "skip", "part"), nodes=2, channels=4, embedding_size=8)


@pytest.mark.slow
def test_every_operation_is_timed_at_every_place(tmp_path):
    table = measure_operations(SPACE, 64, 32, rounds=5)
    found = {place for cell in places(SPACE, 64, 32) for place in cell}
    assert set(table.milliseconds) == {(name, place) for name in SPACE.operations for place in found}
    for (name, place), time in table.milliseconds.items():
        free = name == "none" or (name == "skip" and place.stride == 1)
        assert (time == 0) if free else (time >= 0), (name, place)
    assert any(time > 0 for time in table.milliseconds.values())
    assert table.rest_ms > 0
    held = prediction(table, cells=3, rounds=5)
    assert -1 <= held["rank_correlation"] <= 1
    drawn = np.random.default_rng(0)
    assert held["predicted_ms"] == [
        pytest.approx(table.predicted_ms(random_genotype(SPACE, drawn)), abs=1e-4) for _ in range(3)
    ]
    table.write(tmp_path / "costs.json")
    assert read_latency_table(tmp_path / "costs.json").conditions["rounds"] == 5


def test_the_rest_is_a_network_without_its_edges():
    space = SearchSpace(operations=("skip",), nodes=2, channels=4, embedding_size=8)
    network = SearchedNetwork(genotype=random_genotype(space, np.random.default_rng(0)).to_json(), embedding_size=8)
    edges = sum(parameter.numel() for cell in network.cells for parameter in cell.nodes.parameters())
    frame = _Frame(space)
    own = sum(parameter.numel() for parameter in frame.parameters())
    assert own == sum(parameter.numel() for parameter in network.parameters()) - edges
    assert frame(torch.randn(2, 3, 61, 30)).shape == (2, 8)


def test_a_table_cannot_be_held_against_two_cells():
    with pytest.raises(InputError, match="at least 3 cells, got 2"):
        rtool.bench.operations(searching(), check=2)


def searching() -> FinetuneConfig:
    return parse_config(
        {
            "model": {"reference": "searched"},
            "data": {"train": "synthetic-people:identities=4,images=4"},
            "losses": [{"kind": "softmax"}],
            "search": {},
        },
        "test",
    )


def test_without_a_section_search_there_is_nothing_to_time():
    config = searching().model_copy(update={"search": None})
    with pytest.raises(ConfigError, match="no section search"):
        rtool.bench.operations(config)


def test_images_that_are_too_low_are_refused_before_anything_is_exported():
    with pytest.raises(InputError, match="use images at least 49 high"):
        measure_operations(SPACE, 32, 16)


def test_the_stated_rank_correlation_is_that_of_its_figures():
    file = Path(rtool.__file__).parent / "benchmarks/results/2026-11-30-cell-latency.json"
    kept = json.loads(file.read_text())
    ranks = [np.array(kept[name]).argsort().argsort() for name in ("measured_ms", "predicted_ms")]
    assert kept["rank_correlation"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-4)
    assert kept["rank_correlation"] >= 0.9
    assert f"rank correlation {kept['rank_correlation']:.2f}" in (file.parents[2] / "docs/search.md").read_text()
