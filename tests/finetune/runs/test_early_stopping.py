"""Early stopping: when a run ends, and that a resumed one ends there too."""

import json
from dataclasses import replace

import pytest
import torch

from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.checkpoints import Progress, load_progress
from rtool.finetune.runs.early_stopping import evaluated, patience_is_over
from rtool.finetune.training.measuring.held_out import MeasuredSets


def test_the_count_starts_again_with_every_better_metric():
    progress, counts = Progress(), []
    best = None
    for metric in (0.5, 0.4, 0.5, 0.6, 0.1):
        better = best is None or metric > best
        best = max(metric, best or 0.0)
        progress = evaluated(progress, metric, best=better)
        counts.append((progress.best, progress.without_gain))
    assert counts == [(0.5, 0), (0.5, 1), (0.5, 2), (0.6, 0), (0.6, 1)]


def test_patience_is_over_after_so_many_evaluations_and_says_so():
    lines = []
    waited = replace(Progress(), without_gain=2)
    assert not patience_is_over(None, waited, torch.device("cpu"), lines.append)
    assert not patience_is_over(3, waited, torch.device("cpu"), lines.append)
    assert lines == []
    assert patience_is_over(2, waited, torch.device("cpu"), lines.append)
    assert lines == ["stopped early: 2 evaluations in a row brought no better metric (evaluation.patience)"]


@pytest.fixture
def falling(monkeypatch):
    """Evaluations whose metric never rises after the first."""
    original, given = MeasuredSets.measure, iter([0.5, *[0.4] * 20])
    monkeypatch.setattr(MeasuredSets, "measure", lambda self, *rest: {**original(self, *rest), "mAP": next(given)})


def test_a_run_ends_early_is_finished_and_goes_on_only_with_more_patience(write_recipe, falling):
    path = write_recipe(epochs=8, evaluation={"patience": 2, "first": False}, name="early")
    result = finetune(path, ["steps_per_epoch=1"], quiet=True)
    assert (result.finished, result.epochs, result.best_metric) == (True, 3, 0.5)
    assert "stopped early: 2 evaluations" in (result.run_dir / "log.txt").read_text()
    assert json.loads((result.run_dir / "result.json").read_text())["stopped_by"] is None
    assert load_progress(result.last).without_gain == 2
    again = finetune(path, ["steps_per_epoch=1"], resume=result.run_dir, quiet=True)
    assert again.epochs == 3
    longer = finetune(path, ["steps_per_epoch=1", "evaluation.patience=3"], resume=result.run_dir, quiet=True)
    assert longer.epochs == 4


def test_a_checkpoint_of_before_there_was_patience_is_read(write_recipe):
    result = finetune(write_recipe(), ["steps_per_epoch=1"], quiet=True)
    path = result.last / "training.json"
    values = json.loads(path.read_text())
    del values["without_gain"]
    path.write_text(json.dumps(values))
    assert load_progress(result.last).without_gain == 0
