"""Expected latency in the loss of alpha, and the budget of a random search."""

import math

import pytest
import torch

from rtool.converters.records.preprocessing import Preprocessing
from rtool.converters.zoo.cells.latency_table import LatencyTable, places
from rtool.finetune.config.search import SearchConfig
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.run_folder import read_metrics
from rtool.finetune.search.costs import latency_penalty, random_budget
from rtool.finetune.search.ranking import halving_rounds


def table(search: SearchConfig) -> LatencyTable:
    """sep3 takes 1 ms anywhere, the others nothing; the rest of the network takes 0.5 ms."""
    space = search.space()
    everywhere = {place for cell in places(space, 32, 16) for place in cell}
    times = {(name, place): float(name == "sep3") for place in everywhere for name in space.operations}
    return LatencyTable(space, 32, 16, 0.5, times)


def test_the_penalty_is_the_log_of_what_is_above_the_target():
    assert latency_penalty(torch.tensor(6.0), 2.0, 0.5).item() == pytest.approx(0.5 * math.log(3))
    assert latency_penalty(torch.tensor(1.0), 2.0, 0.5).item() == 0.0


def test_a_large_weight_drives_the_expected_latency_to_the_least_of_all_cells(search_recipe, tmp_path):
    search = {"operations": ["none", "max3", "sep3"], "nodes": 1, "channels": 4, "guard": "none", "shortlist": 1}
    table(SearchConfig.model_validate(search)).write(tmp_path / "costs.json")
    cost = {"table": str(tmp_path / "costs.json"), "target_ms": 0.1, "weight": 1000.0}
    recipe = search_recipe({**search, "cost": cost, "warmup": 0.0, "alpha": {"lr": 1.0}}, epochs=2)

    run = finetune(recipe, quiet=True).run_dir

    rows = [row for row in read_metrics(run) if row["kind"] == "search"]
    assert rows[-1]["expected_ms"] == pytest.approx(0.5, abs=0.05)  # of 6.5, where every edge carries sep3
    assert rows[-1]["cell_ms"] == 0.5


def test_the_default_budget_of_a_random_search_is_what_a_mixed_one_multiplies():
    search = SearchConfig(channels=8, nodes=2, warmup=0.5)
    first = random_budget(search, 100, Preprocessing(64, 32))
    second = random_budget(search.model_copy(update={"order": 2}), 100, Preprocessing(64, 32))
    assert second / first == pytest.approx((1 + 0.5 * 4) / (1 + 0.5), rel=0.01)
    assert first > 150  # a supernet costs several cells


@pytest.mark.parametrize(
    ("cells", "budget", "expected"),
    [(8, 240, [(8, 10), (4, 30), (2, 70)]), (5, 100, [(5, 10), (2, 35)]), (2, 40, [(2, 20)]), (1, 10, [(1, 10)])],
)
def test_each_round_of_halving_gets_an_equal_part_of_the_budget(cells, budget, expected):
    rounds = halving_rounds(cells, budget)
    assert [(each.cells, each.until) for each in rounds] == expected
    steps = [each.until - before for each, before in zip(rounds, [0, *(each.until for each in rounds)], strict=False)]
    assert sum(each.cells * count for each, count in zip(rounds, steps, strict=True)) <= budget
