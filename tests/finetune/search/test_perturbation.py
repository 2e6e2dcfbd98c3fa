"""The cell whose parts a supernet would miss most, against a loss whose every part is known."""

import json

import numpy as np
import pytest

import rtool
from rtool.converters.zoo.cells.genotype import read_genotype
from rtool.errors import InputError
from rtool.finetune.config.search import SearchConfig
from rtool.finetune.search.perturbation import perturbed_cell

OPERATIONS = ["none", "skip", "sep3", "dil3"]


def search(**fields: object) -> SearchConfig:
    return SearchConfig.model_validate({"operations": OPERATIONS, "nodes": 2, "choose": "perturbation", **fields})


def additive(seed: int = 0):
    """Shares of equal operations, and a loss that falls by `worth` times the weight of each operation."""
    rng = np.random.default_rng(seed)
    worth = rng.random((2, 5, 4))
    shares = (np.full((5, 4), 0.25), np.full((5, 4), 0.25))
    return (
        worth,
        shares,
        lambda weights: -float(sum((each * own).sum() for each, own in zip(worth, weights, strict=True))),
    )


@pytest.mark.parametrize("seed", range(4))
def test_what_is_worth_most_is_kept(seed):
    worth, shares, loss = additive(seed)
    cell = perturbed_cell(search(most_skips=None), shares, loss, lambda _: None, seed)
    for kind, nodes in enumerate((cell.normal, cell.reduce)):
        for first, edges in ((0, nodes[0]), (2, nodes[1])):
            rows = worth[kind][first : first + 2 + first // 2]
            best = {state: 1 + int(row[1:].argmax()) for state, row in enumerate(rows)}
            kept = sorted(sorted(best, key=lambda state: -rows[state][best[state]])[:2])
            assert [(OPERATIONS[best[state]], state) for state in kept] == list(edges)
    assert (shares[0] == 0.25).all()


def test_the_supernet_is_trained_after_each_decision_with_what_is_decided():
    _, shares, loss = additive()
    seen = []
    perturbed_cell(search(), shares, loss, lambda weights: seen.append([each.copy() for each in weights]), 0)
    assert len(seen) == 2 * 5 + 2 * 2
    for number, weights in enumerate(seen[:10]):
        decided = sum(int((each.max(axis=1) == 1).sum()) for each in weights)
        assert decided == number + 1
    assert [int(each.any(axis=1).sum()) for each in seen[-1]] == [4, 4]  # two edges for each of two nodes


def test_alpha_does_not_decide():
    """DARTS-PT's point: an operation of little weight may be what the loss depends on."""
    shares = tuple(np.tile([0.1, 0.6, 0.2, 0.1], (5, 1)) for _ in range(2))

    def loss(weights):
        return float(sum((each[:, 3] == 0).sum() for each in weights))

    cell = perturbed_cell(search(most_skips=None), shares, loss, lambda _: None, 0)
    assert {operation for nodes in (cell.normal, cell.reduce) for node in nodes for operation, _ in node} == {"dil3"}


def test_skips_beyond_the_limit_give_way_to_what_is_missed_next():
    shares = tuple(np.full((5, 4), 0.25) for _ in range(2))

    def loss(weights):
        return float(sum(4.0 * (each[:, 1] == 0).sum() + (each[:, 2] == 0).sum() for each in weights))

    cell = perturbed_cell(search(most_skips=1), shares, loss, lambda _: None, 0)
    assert cell.skips["normal"] == 1
    assert {operation for node in cell.normal for operation, _ in node} == {"skip", "sep3"}


def test_a_loss_that_is_not_finite_is_refused():
    _, shares, _ = additive()
    with pytest.raises(InputError, match="not finite"):
        perturbed_cell(search(), shares, lambda _: float("nan"), lambda _: None, 0)


def test_a_search_that_chooses_by_perturbation_and_weighs_its_edges(search_recipe):
    fields = {"choose": "perturbation", "perturbation_steps": 1, "edge_weights": True, "nodes": 2}
    run = rtool.search(search_recipe(fields, evaluation=None), quiet=True).run_dir
    assert read_genotype(run / "search" / "genotype.json").facts["source"] == "shortlist"
    tried = json.loads((run / "search" / "shortlist.json").read_text())
    assert [row["origin"] for row in tried["cells"]] == ["perturbation", "drawn"]
    assert np.load(run / "search" / "alphas.npy").shape == (2, 10, 4)  # 3 operations and the edge itself
    alone = rtool.search(search_recipe({**fields, "shortlist": 1}, evaluation=None), quiet=True).run_dir
    found = read_genotype(alone / "search" / "genotype.json")
    assert found.facts["source"] == "perturbation"
    first = tried["cells"][0]["genotype"]
    assert [first[kind] for kind in ("normal", "reduce")] == [
        [list(edge) for node in nodes for edge in node] for nodes in (found.normal, found.reduce)
    ]
