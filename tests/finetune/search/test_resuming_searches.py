"""A search that was stopped continues to the same alphas, weights and cell, to the last bit."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import rtool
from rtool.errors import ConfigError, InputError
from rtool.finetune.finetuning import finetune
from rtool.finetune.search import brief_training

from ..small_runs import assert_same_state, stop_after

RANDOM = {"method": "random", "shortlist": 4, "budget": 16}


def cell_of(run: Path) -> dict[str, object]:
    return json.loads((run / "search" / "genotype.json").read_text())


def shortlist_of(run: Path) -> list[list[float]]:
    return [row["metrics"] for row in json.loads((run / "search" / "shortlist.json").read_text())["cells"]]


@pytest.mark.parametrize(
    "search", [{"order": 2, "shortlist": 1}, pytest.param({"method": "sampled"}, marks=pytest.mark.slow)]
)
def test_a_search_stopped_in_an_epoch_continues_to_the_same_bits(search_recipe, search):
    recipe = search_recipe(search)
    whole = finetune(recipe, ["name=whole"], quiet=True)
    assert whole.steps == 8

    stop_after(6, recipe, ["name=stopped"])
    continued = finetune(recipe, ["name=stopped"], resume="auto", quiet=True)

    assert continued.finished
    assert_same_state(whole.run_dir, continued.run_dir)
    alphas = [np.load(run / "search" / "alphas.npy") for run in (whole.run_dir, continued.run_dir)]
    assert np.array_equal(*alphas)
    assert cell_of(whole.run_dir) == cell_of(continued.run_dir)


def stopped_after_cells(count: int, monkeypatch) -> None:
    """Send SIGTERM to this process once `count` cells were measured."""
    original, measured = brief_training.BriefTraining.measure, []

    def measure(self):
        measured.append(original(self))
        if len(measured) == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return measured[-1]

    monkeypatch.setattr(brief_training.BriefTraining, "measure", measure)


@pytest.mark.parametrize(
    ("search", "cells"),
    [
        ({"shortlist": 3}, 1),
        pytest.param({**RANDOM, "operations": ["none", "max3", "sep3"]}, 5, marks=pytest.mark.slow),
    ],
)
def test_a_shortlist_stopped_between_two_cells_continues_with_the_next(search_recipe, monkeypatch, search, cells):
    recipe = search_recipe(search, epochs=1)
    whole = finetune(recipe, ["name=whole"], quiet=True)

    with monkeypatch.context() as patch:
        stopped_after_cells(cells, patch)
        stopped = finetune(recipe, ["name=stopped"], quiet=True)
    assert (stopped.finished, stopped.stopped_by, stopped.found) == (False, "SIGTERM", None)
    assert sum(map(len, shortlist_of(stopped.run_dir))) == cells
    continued = rtool.search(recipe, ["name=stopped"], resume="auto", quiet=True)

    assert continued.finished
    assert continued.run_dir == stopped.run_dir
    assert shortlist_of(continued.run_dir) == shortlist_of(whole.run_dir)
    assert cell_of(continued.run_dir) == cell_of(whole.run_dir)


def test_a_search_that_has_ended_or_changed_is_not_continued(search_recipe):
    recipe = search_recipe({"shortlist": 1}, epochs=1)
    run = finetune(recipe, quiet=True).run_dir
    with pytest.raises(InputError, match="has done 1 epochs of 1"):
        finetune(recipe, resume=run, quiet=True)
    with pytest.raises(ConfigError, match=r"search: .* was trained with .*; put it back"):
        finetune(recipe, ["epochs=2", "search.order=2"], resume=run, quiet=True)


def test_a_checkpoint_of_a_search_is_no_network(search_recipe):
    run = finetune(search_recipe({"shortlist": 1}, epochs=1), quiet=True).run_dir
    with pytest.raises(InputError, match=r"a checkpoint of a search, .*genotype: RUN/search/genotype.json"):
        rtool.export(run, run / "out.onnx")
