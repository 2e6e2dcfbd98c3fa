"""Runs whose evaluation, numbers or pictures fail: what is kept, what is best, and where one goes on."""

import json
from pathlib import Path

import numpy as np
import pytest

from rtool.errors import DataError, GateError
from rtool.finetune.config.files import load_config
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.checkpoints import load_training_state
from rtool.finetune.training import training
from rtool.finetune.training.training import Trainer

from .small_runs import stop_after


def test_an_epoch_whose_evaluation_fails_is_kept(config, monkeypatch):
    def fail(self, sets):
        raise MemoryError

    monkeypatch.setattr(Trainer, "_measure", fail)
    with pytest.raises(MemoryError):
        finetune(config, ["epochs=1", "steps_per_epoch=1", "evaluation.first=false"], quiet=True)
    (last,) = config.parent.glob("runs/tiny/*/checkpoints/last.rtool")
    assert load_training_state(last)[0].epoch == 1


def test_a_metric_that_is_not_a_number_is_never_the_best(config, monkeypatch):
    values = iter([float("nan"), 0.25, float("nan"), 0.125])
    measure = Trainer._measure
    monkeypatch.setattr(Trainer, "_measure", lambda self, sets: {**measure(self, sets), "mAP": next(values)})
    changes = ["epochs=4", "steps_per_epoch=1", "checkpoints.keep=9", "evaluation.first=false"]
    result = finetune(config, changes, quiet=True)
    assert result.best_metric == 0.25
    assert result.best.resolve().name == "step-00000002.rtool"


def test_a_model_that_diverged_is_not_measured_and_the_checkpoint_before_is_kept(config, monkeypatch):
    values = iter([1.0, np.nan])

    def embedder(*_):
        value = next(values)
        return lambda pixels: np.full((len(pixels), 4), value, dtype="f4")

    monkeypatch.setattr(training, "embedder_of", embedder)
    with pytest.raises(GateError, match="embeddings hold NaN"):
        finetune(config, ["steps_per_epoch=1", "evaluation.first=false"], quiet=True)
    (last,) = config.parent.glob("runs/tiny/*/checkpoints/last.rtool")
    assert load_training_state(last)[0].epoch == 1


def test_ten_steps_without_a_finite_gradient_stop_the_run_where_it_can_go_on(config):
    """The rate explodes after step 3, so step 4 does the damage and 5 to 14 are skipped."""
    saving = ["evaluation.every=99", "checkpoints.every_steps=1"]
    diverging = ["schedule.kind=multistep", "schedule.milestone_steps=[3]", "schedule.gamma=1e30", "epochs=20"]
    with pytest.raises(
        GateError, match=r"^10 steps in a row had no finite gradient; .*; step-00000003.rtool, from bef"
    ):
        finetune(config, [*saving, *diverging], quiet=True)
    (run,) = Path(load_config(config).output, "tiny").iterdir()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["last.rtool", "step-00000003.rtool"]
    result = json.loads((run / "result.json").read_text())
    assert (result["finished"], result["steps"], result["skipped_steps"]) == (False, 14, 10)
    assert result["stopped_by"].startswith("10 steps in a row")
    assert (run / "report.html").exists()
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=pytest.fail)
        if row["kind"] == "source":
            continue
        assert (row["losses"]["arcface"] is None) == (row["step"] > 4)
    assert finetune(config, [*saving, "epochs=2"], resume="auto", quiet=True).run_dir == run


def test_a_run_that_diverges_from_its_first_step_has_nothing_to_go_on_from(config):
    with pytest.raises(GateError, match=r"; start a new run$"):
        finetune(config, ["optimizer.lr=1e30", "epochs=20", "evaluation.every=20"], quiet=True)
    assert finetune(config, ["epochs=1"], resume="auto", quiet=True).steps == 4


def test_a_picture_that_cannot_be_drawn_does_not_change_how_a_run_ends(config, monkeypatch):
    def fail(*_, **__):
        raise DataError("no image can be read")

    monkeypatch.setattr("rtool.finetune.finetuning.draw_batch", fail)
    result = finetune(config, ["epochs=1", "steps_per_epoch=1"], quiet=True)
    assert result.finished
    assert "data:image/png;base64," not in (result.run_dir / "report.html").read_text()
    said = "report.html shows no training images: no image can be read"
    assert said in (result.run_dir / "log.txt").read_text()
    stop_after(1, config, ["epochs=1"])
    with pytest.raises(GateError, match="10 steps in a row had no finite gradient"):
        finetune(config, ["optimizer.lr=1e30", "epochs=20", "evaluation.every=20"], quiet=True)
    assert len(list(config.parent.glob("runs/tiny/*/report.html"))) == 3
