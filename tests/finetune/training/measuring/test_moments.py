"""When a run is evaluated: at fractions of epochs, at steps, at its end, or never; and that a resumed run agrees."""

import json

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from rtool.errors import ConfigError
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.run_folder import read_metrics
from rtool.finetune.training import training
from rtool.finetune.training.measuring.moments import evaluation_is_due
from rtool.finetune.training.planning import plan_run


def config(epochs, evaluation):
    base = {"model": {"reference": "m"}, "data": {"train": "a"}, "losses": [{"kind": "arcface"}]}
    return FinetuneConfig.model_validate({**base, "epochs": epochs, "evaluation": evaluation})


@pytest.mark.parametrize(
    ("epochs", "steps", "evaluation", "due"),
    [
        (3, 4, {}, [4, 8, 12]),
        (3, 4, {"every": 2}, [8, 12]),
        (2, 4, {"every": 0.5}, [2, 4, 6, 8]),
        (1, 10, {"every": 0.1}, list(range(1, 11))),
        (1, 10, {"every": 0.3}, [3, 6, 9, 10]),
        (2, 5, {"every": 0.5}, [3, 5, 8, 10]),
        (2, 5, {"every": 1.5}, [8, 10]),
        (1, 3, {"every": 0.1}, [1, 2, 3]),
        (2, 5, {"every_steps": 4}, [4, 8, 10]),
        (2, 5, {"every_steps": 4, "every": 0.1}, [4, 8, 10]),
        (2, 5, {"every": 1000}, [10]),
        (2, 5, None, []),
    ],
)
def test_the_moments_of_a_run(epochs, steps, evaluation, due):
    asked = config(epochs, evaluation)
    assert [place for place in range(epochs * steps + 1) if evaluation_is_due(asked, place, steps)] == due


def evaluations(run):
    return [row for row in read_metrics(run) if row["kind"] == "evaluation"]


def test_a_run_stopped_between_or_at_its_evaluations_resumes_to_the_same_bits(write_recipe, monkeypatch):
    """Steps 2, 4, 6, 8 are evaluated; a stop at step 2 comes before the evaluation that is due there."""
    recipe = write_recipe(epochs=2, evaluation={"every": 0.5}, optimizer={"ema": 0.5}, name="parts")
    whole = finetune(recipe, quiet=True)
    assert [row["step"] for row in evaluations(whole.run_dir)] == [2, 4, 6, 8]
    original = training.Trainer._step
    for stop in (1, 2, 3):

        def step(self, group, stop=stop):
            if self._progress.step + 1 == stop:
                self._request_stop("SIGTERM")
            return original(self, group)

        with monkeypatch.context() as patch:
            patch.setattr(training.Trainer, "_step", step)
            stopped = finetune(recipe, quiet=True)
        assert (stopped.finished, stopped.steps) == (False, stop)
        assert_same_end(whole, finetune(recipe, resume=stopped.run_dir, quiet=True))


def assert_same_end(whole, again):
    assert evaluations(again.run_dir) == evaluations(whole.run_dir)
    assert again.best_metric == whole.best_metric
    assert again.best.resolve().name.split("-")[1][:8] == whole.best.resolve().name.split("-")[1][:8]
    for file in ("weights.safetensors", "training.safetensors"):
        first, second = load_file(whole.last / file), load_file(again.last / file)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first), file


def test_a_run_stops_early_within_an_epoch(write_recipe, monkeypatch):
    from rtool.finetune.training.measuring.held_out import MeasuredSets

    original, given = MeasuredSets.measure, iter([0.5, *[0.4] * 20])
    monkeypatch.setattr(MeasuredSets, "measure", lambda self, *rest: {**original(self, *rest), "mAP": next(given)})
    result = finetune(write_recipe(epochs=3, evaluation={"every_steps": 1, "patience": 1, "first": False}), quiet=True)
    assert (result.finished, result.steps, result.epochs, result.best_metric) == (True, 2, 0, 0.5)


def test_a_run_that_measures_nothing_holds_nothing_out_and_has_no_best(write_recipe, tiny):
    data = {**tiny["data"], "evaluate": None}
    recipe = write_recipe(evaluation=None, data=data)
    assert (plan_run(load(recipe)).held_out_images, plan_run(load(recipe)).metric) == (0, None)
    result = finetune(recipe, quiet=True)
    assert (result.finished, result.best, result.best_metric, result.metrics) == (True, None, None, {})
    assert evaluations(result.run_dir) == []
    log = (result.run_dir / "log.txt").read_text()
    assert "evaluation is null: nothing is held out or measured, and no checkpoint is the best" in log
    assert "32 images of 8 identities" in log


def load(path):
    return FinetuneConfig.model_validate(yaml.safe_load(path.read_text()))


def test_several_sets_for_training_and_evaluation(write_recipe, tiny):
    people = "synthetic-people:identities=4,images=8,seed={},size=32x16"
    data = {
        **tiny["data"],
        "train": [tiny["data"]["train"], people.format(5)],
        "evaluate": {"x": people.format(2), "y": people.format(3)},
    }
    recipe = write_recipe(data=data, evaluation={"metric": "mean.rank1"})
    result = finetune(recipe, quiet=True)
    assert result.best_metric == result.metrics["mean.rank1"]
    assert result.metrics["mean.mAP"] == pytest.approx((result.metrics["x.mAP"] + result.metrics["y.mAP"]) / 2)
    log = (result.run_dir / "log.txt").read_text()
    assert "64 images of 12 identities" in log
    assert f"evaluate on x, {people.format(2).partition(':')[0]}" in log
    saved = json.loads((result.last / "data.json").read_text())
    assert (len(saved["classes"]), len(saved["held_out"])) == (12, 8)
    other = {**data, "evaluate": {"x": people.format(2), "y": people.format(4)}}
    changed = write_recipe(data=other, epochs=2, evaluation={"metric": "mean.rank1"})
    with pytest.raises(ConfigError, match="was measured on other images"):
        finetune(changed, resume=result.run_dir, quiet=True)
