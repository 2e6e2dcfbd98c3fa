"""Resuming a run: what may be changed, what is refused by name, and what a kill or a full disk leaves."""

import json
import os
import resource
from contextlib import contextmanager

import pytest

from rtool.errors import ConfigError, InputError, PlatformError
from rtool.finetune.config.files import dump_config, load_config
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.resuming import opened_run
from rtool.finetune.runs.run_folder import read_metrics, run_locked
from rtool.finetune.training import training

from .recorded_runs import files_of, run_of


@pytest.mark.parametrize(
    "change",
    [
        "model.reference=osnet_x0_5",
        "model.options={'dropout': 0.1}",
        "model.output=1",
        "model.weights=other.safetensors",
        "model.restore_bn=true",
        "losses.0={kind: softmax}",
        "losses=[{kind: arcface, scale: 16}, {kind: triplet}]",
        "optimizer.kind=sgd",
        "optimizer.ema=0.9",
        "evaluation.metric=rank1",
        "evaluation.protocol=retrieval",
    ],
)
def test_a_change_that_a_checkpoint_does_not_bear_is_refused_by_name(recipe, change):
    run = run_of(recipe)
    before = (run / "config.yaml").read_text()
    field = change.partition("=")[0].removesuffix(".0")
    config = load_config(recipe, ["epochs=2", change])
    with pytest.raises(ConfigError, match=rf"^{field}: .*; put it back, or start a new run$"), opened_run(config, run):
        pass
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    "change",
    [
        "epochs=3",
        "optimizer.lr=1e-4",
        "data.batch=4",
        "data.workers=1",
        "log_every=7",
        "losses.0.scale=8",
        "optimizer.weight_decay=0",
        "precision=bf16",
        "device=cpu",
        "model.freeze={'conv1*': null}",
        "schedule.kind=constant",
    ],
)
def test_other_changes_are_taken_over(recipe, change):
    config = load_config(recipe, ["epochs=2", change])
    with opened_run(config, run_of(recipe)) as (run, checkpoint):
        assert load_config(run / "config.yaml") == config
        assert checkpoint == (run / "checkpoints" / "last.rtool").resolve()


@pytest.fixture
def full_disk():
    """No byte can be written to a file within the context."""

    @contextmanager
    def full():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


def test_a_full_disk_leaves_the_configuration_as_it_was(recipe, full_disk):
    run = run_of(recipe)
    before = files_of(run)
    config = load_config(recipe, ["epochs=2"])
    message = "size limit of this process .* while writing config.yaml; .* --resume auto$"
    with full_disk(), pytest.raises(PlatformError, match=message), opened_run(config, run):
        pass
    assert files_of(run) == before
    with opened_run(config, run):
        assert files_of(run) == {"config.yaml": dump_config(config), "config-1.yaml": before["config.yaml"]}


def test_an_unchanged_configuration_is_not_written(recipe, full_disk):
    run = run_of(recipe)
    (run / "result.json").unlink()
    with full_disk(), opened_run(load_config(run / "config.yaml"), run):
        pass
    assert list(files_of(run)) == ["config.yaml"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_kill_while_the_configuration_is_renewed_leaves_the_one_before(recipe, monkeypatch, number):
    run = run_of(recipe)
    before = (run / "config.yaml").read_text()
    config = load_config(recipe, ["epochs=2"])
    original, calls = os.replace, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) > number:
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt), opened_run(config, run):
            pass
    assert (run / "config.yaml").read_text() == before
    with opened_run(config, run):
        assert (run / "config.yaml").read_text() == dump_config(config)


def test_training_data_of_other_identities_are_refused(recipe):
    data = "data.train=synthetic-people:identities=9,images=4,seed=1,size=32x16"
    with pytest.raises(
        ConfigError, match=r"data.train: .* was trained on 8 identities, got 9, and its heads have a row for each"
    ):
        finetune(recipe, ["epochs=2", data], resume=run_of(recipe), quiet=True)


def test_a_run_that_is_being_written_is_neither_named_nor_found(recipe):
    run = run_of(recipe)
    (run / "result.json").unlink()
    before = (run / "config.yaml").read_text()
    config = load_config(recipe, ["epochs=9", "optimizer.lr=0.5"])
    with run_locked(run):
        for resume in (run, "auto"):
            with pytest.raises(InputError, match="another run is writing here"), opened_run(config, resume):
                pass
    assert (run / "config.yaml").read_text() == before


def test_a_run_killed_before_its_result_was_written_gets_it_from_its_metrics(recipe):
    run = run_of(recipe)
    whole = json.loads((run / "result.json").read_text())
    for name in ("result.json", "report.html", "metrics.csv"):
        (run / name).unlink()
    finetune(recipe, resume="auto", quiet=True)
    again = json.loads((run / "result.json").read_text())
    assert whole["metrics"]
    assert {**again, "images_per_second": 0} == {**whole, "images_per_second": 0}
    assert again["images_per_second"] > 0
    assert (run / "report.html").exists()
    assert (run / "metrics.csv").exists()


def test_an_epoch_whose_evaluation_failed_is_evaluated_when_the_run_goes_on(recipe, monkeypatch):
    def fail(self, sets):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_measure", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            finetune(recipe, ["epochs=2"], resume=run_of(recipe), quiet=True)
    result = finetune(recipe, ["epochs=2"], resume=run_of(recipe), quiet=True)
    assert result.finished
    rows = [row["step"] for row in read_metrics(result.run_dir) if row["kind"] == "evaluation"]
    assert rows == [4, 8]


def test_another_preprocessing_than_the_checkpoint_was_trained_with_is_refused(recipe):
    run = run_of(recipe)
    before = files_of(run)
    config = load_config(recipe, ["epochs=2", "model.preprocessing=raw"])
    expected = r"^model\.preprocessing: .* was trained with .*, got .*; put it back"
    with pytest.raises(ConfigError, match=expected), opened_run(config, run):
        pass
    assert files_of(run) == before
