"""Which checkpoint a run goes on from, what becomes of later ones, and what damage is reported."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from rtool.errors import InputError
from rtool.finetune.config.config import ModelConfig
from rtool.finetune.config.files import load_config
from rtool.finetune.finetuning import finetune
from rtool.finetune.network.networks import load_network
from rtool.finetune.runs.checkpoints import check_checkpoint
from rtool.finetune.runs.resuming import opened_run
from rtool.finetune.runs.run_folder import read_metrics
from rtool.finetune.training import training
from rtool.finetune.training.schedules import learning_rate_factor

from .recorded_runs import run_of


def rates(run: Path) -> dict[int, float]:
    return {row["step"]: row["lr"] for row in read_metrics(run) if row["kind"] == "train"}


def test_a_zoo_model_with_options_is_read_back_from_its_checkpoint(tmp_path):
    config = ModelConfig(reference="iresnet18", size=(32, 32), options={"dropout": 0.1})
    network = load_network(config)
    network.save(tmp_path / "checkpoint.rtool", network.module, None)
    assert load_network(config, tmp_path / "checkpoint.rtool").dimension == network.dimension


def test_a_checkpoint_can_be_named_to_go_on_from(recipe):
    run = run_of(recipe)
    finetune(recipe, ["epochs=3", "checkpoints.keep=9"], resume=run, quiet=True)
    checkpoint = run / "checkpoints" / "step-00000008.rtool"
    with opened_run(load_config(recipe, ["epochs=4"]), checkpoint) as found:
        assert found == (run, checkpoint)


def test_gone_on_from_an_older_checkpoint_a_run_forgets_the_later_ones(recipe):
    """They were of another branch, and better: the best to beat is the best of what is left."""
    run = run_of(recipe)
    finetune(recipe, ["epochs=3", "checkpoints.keep=9"], resume=run, quiet=True)
    rows = read_metrics(run)
    for row in rows:
        if row["kind"] == "evaluation":
            row["mAP"] = {4: 0.0, 8: 0.01, 12: 2.0}[row["step"]]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoints = run / "checkpoints"
    (checkpoints / "best.rtool").unlink()
    (checkpoints / "best.rtool").symlink_to("step-00000012.rtool")
    os.truncate(checkpoints / "step-00000012.rtool" / "training.safetensors", 100)
    result = finetune(recipe, ["epochs=3"], resume=checkpoints / "step-00000008.rtool", quiet=True)
    evaluations = {row["step"]: row["mAP"] for row in read_metrics(run) if row["kind"] == "evaluation"}
    assert sorted(evaluations) == [4, 8, 12]
    assert result.best_metric == max(evaluations.values()) == evaluations[12] > 0.01
    assert result.best == checkpoints / "best.rtool"
    assert result.best.resolve() == result.last == checkpoints.resolve() / "step-00000012.rtool"
    check_checkpoint(result.last)
    renamed = "step-00000012.rtool, the best until now, renamed abandoned-00000012.rtool"
    assert f"resuming from step-00000008.rtool: {renamed}" in (run / "log.txt").read_text()


def test_later_checkpoints_stand_until_the_older_one_is_loaded(recipe, monkeypatch):
    run = run_of(recipe)
    finetune(recipe, ["epochs=2"], resume=run, quiet=True)
    before = sorted(path.name for path in (run / "checkpoints").iterdir())

    def fail(self, tensors):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(training.Stepper, "load", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        finetune(recipe, ["epochs=2"], resume=run / "checkpoints" / "step-00000004.rtool", quiet=True)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before
    assert (run / "checkpoints" / "last.rtool").resolve().name == "step-00000008.rtool"


def test_what_a_kill_left_half_done_is_cleared_away(recipe):
    run = run_of(recipe)
    checkpoints = run / "checkpoints"
    for name in (".step-00000008.rtool.partial", ".shards-00000008"):
        (checkpoints / name).mkdir()
        (checkpoints / name / "shard-00002.safetensors").touch()
    with opened_run(load_config(recipe, ["epochs=2"]), run):
        assert not list(checkpoints.glob(".*"))


def test_a_record_of_another_version_is_refused(recipe):
    record = run_of(recipe) / "checkpoints" / "last.rtool" / "training.json"
    values = json.loads(record.read_text())
    del values["batches"]
    record.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"training.json: lacks batches; another version of rtool wrote it"):
        finetune(recipe, ["epochs=2"], resume=run_of(recipe), quiet=True)


def test_a_damaged_checkpoint_is_refused_with_the_one_before(recipe):
    run = run_of(recipe)
    finetune(recipe, ["epochs=2"], resume=run, quiet=True)
    os.truncate(run / "checkpoints" / "last.rtool" / "training.safetensors", 100)
    with pytest.raises(InputError, match=r"training.safetensors: .* --resume .*step-00000004.rtool$"):
        finetune(recipe, ["epochs=3"], resume=run, quiet=True)


def test_rates_keep_their_curve_when_a_run_goes_on_with_larger_batches(recipe, monkeypatch):
    """Stopped after 6 of 8 steps of an epoch; with twice the batch it continues after 3 of 4."""
    shutil.rmtree(recipe.parent / "runs")
    original = training.Trainer._report

    def report(self, meter):
        original(self, meter)
        if self.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_report", report)
        finetune(recipe, ["epochs=2", "data.batch=4"], quiet=True)
    config = load_config(recipe, ["epochs=2"])
    result = finetune(config, resume="auto", quiet=True)
    assert result.steps == 11
    for step, rate in rates(result.run_dir).items():
        place, steps_per_epoch = (step - 1, 8) if step <= 6 else (step - 4, 4)
        factor = learning_rate_factor(config.schedule, place, steps_per_epoch, config.epochs)
        assert rate == config.optimizer.lr * factor, step
    assert "batches of 8 images from here on, 4 before" in (result.run_dir / "log.txt").read_text()
