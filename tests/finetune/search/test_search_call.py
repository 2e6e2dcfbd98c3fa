"""A whole search: what it leaves behind, and that its cell trains as a network of its own."""

import json
from dataclasses import replace

import numpy as np
import pytest

import rtool
from rtool.converters.zoo.cells.genotype import read_genotype
from rtool.finetune.config.short_forms import search_config
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.run_folder import read_metrics


def test_a_search_leaves_its_cell_alphas_pictures_and_shortlist(search_recipe):
    recipe = search_recipe(tracking={"tensorboard": True})

    result = rtool.search(recipe, quiet=True)

    folder = result.run_dir / "search"
    cell = read_genotype(folder / "genotype.json")
    assert replace(cell.space, embedding_size=8) == search_config(recipe).search.space()
    assert {"epoch": 2, "method": "mixed", "order": 1, "seed": 0, "source": "shortlist"}.items() <= cell.facts.items()
    assert result.found["genotype"] == "search/genotype.json"
    assert (result.found["parameters"], result.found["macs"]) == (cell.facts["parameters"], cell.facts["macs"])
    alphas = np.load(folder / "alphas.npy")
    assert alphas.shape == (2, 4, 3)  # 2 epochs, 2 edges in each of 2 kinds of cells, 3 operations
    assert not np.array_equal(alphas[0], alphas[1])
    for kind in ("normal", "reduce"):
        assert (folder / f"epoch002-{kind}.svg").read_text().startswith("<svg")
    tried = json.loads((folder / "shortlist.json").read_text())
    assert [row["origin"] for row in tried["cells"]] == ["argmax", "drawn"]
    best = max(tried["cells"], key=lambda row: row["metrics"][0])
    assert tried["found"] == best["cell"]
    assert [best["genotype"][kind] for kind in ("normal", "reduce")] == [
        [list(edge) for node in nodes for edge in node] for nodes in (cell.normal, cell.reduce)
    ]
    rows = read_metrics(result.run_dir)
    epochs = [row for row in rows if row["kind"] == "search"]
    assert [row["epoch"] for row in epochs] == [1, 2]
    share = np.exp(alphas[1]) / np.exp(alphas[1]).sum(axis=1, keepdims=True)
    assert epochs[1]["entropy"] == pytest.approx(-(share * np.log(share)).sum(axis=1).mean(), abs=1e-5)
    measured = [row for row in rows if row["kind"] == "evaluation"]
    assert all(row["gap"] == pytest.approx(row["mAP"] - row["discretised"]) for row in measured)
    assert len(measured) == 2


def test_tensorboard_has_the_cells_their_numbers_and_the_weights_of_each_edge(search_recipe):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = rtool.search(search_recipe({"shortlist": 1}, tracking={"tensorboard": True}), quiet=True).run_dir

    events = EventAccumulator(str(run / "tb"))
    events.Reload()
    tags = events.Tags()
    assert {"genotype/normal", "genotype/reduce"} <= set(tags["images"])
    assert {"search/entropy", "search/skips/normal", "evaluation/gap"} <= set(tags["scalars"])
    assert {f"{kind}/edge0{edge}" for kind in ("normal", "reduce") for edge in (0, 1)} <= set(tags["histograms"])


def test_the_found_cell_trains_from_fresh_weights(search_recipe):
    recipe = search_recipe({"shortlist": 1}, epochs=1)
    genotype = rtool.search(recipe, quiet=True).run_dir / "search" / "genotype.json"

    model = f"model={{reference: searched, size: [32, 16], options: {{genotype: {genotype}, embedding_size: 8}}}}"
    result = finetune(recipe, ["search=null", model, "name=found"], quiet=True)

    assert result.finished
    assert result.found is None
    assert read_genotype(genotype).facts["source"] == "argmax"


@pytest.mark.parametrize(
    ("search", "sections"),
    [
        ({"order": 2, "guard": "noise"}, {}),
        ({"method": "sampled"}, {}),
        ({"method": "partial", "channels": 8, "guard": "auxiliary_skip"}, {}),
        ({"guard": "sigmoid", "stop": "skips"}, {"precision": "bf16"}),
        ({}, {"model": {"reference": "searched", "size": [32, 16], "gradient_checkpointing": True}}),
    ],
)
def test_every_method_guard_and_memory_lever_moves_alpha(search_recipe, search, sections):
    result = rtool.search(search_recipe({"shortlist": 1, **search}, epochs=1, **sections), quiet=True)
    assert result.skipped_steps == 0
    alphas = np.load(result.run_dir / "search" / "alphas.npy")
    assert np.isfinite(alphas).all()
    assert np.abs(alphas).max() > 0.02  # from 0.001 on, by steps of Adam at a rate of 0.02


def test_random_search_halves_its_cells_and_finds_the_best_of_the_last_round(search_recipe):
    recipe = search_recipe({"method": "random", "shortlist": 4, "budget": 16, "operations": ["none", "max3", "sep3"]})

    result = rtool.search(recipe, quiet=True)

    tried = json.loads((result.run_dir / "search" / "shortlist.json").read_text())
    rounds = [len(row["metrics"]) for row in tried["cells"]]
    assert sorted(rounds) == [1, 1, 2, 2]
    first = sorted(range(4), key=lambda cell: -tried["cells"][cell]["metrics"][0])
    assert {cell for cell in range(4) if rounds[cell] == 2} == set(first[:2])
    last = max((cell for cell in range(4) if rounds[cell] == 2), key=lambda cell: tried["cells"][cell]["metrics"][1])
    assert tried["found"] == last
    assert result.found["source"] == "random"
    assert result.found["decided"] is None
    assert not (result.run_dir / "search" / "cells").exists()


def test_any_run_can_be_searched_with_its_data_and_losses(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: {reference: osnet_x0_25, size: [128, 64], weights: w.pth, freeze: {conv1*: 1}}\n"
        "data: {train: people}\nlosses: [{kind: softmax}]\n"
    )
    config = search_config(path, ["search.method=partial"])
    assert (config.model.reference, config.model.size, config.model.weights) == ("searched", (128, 64), None)
    assert (config.search.method, config.name) == ("partial", "search")
