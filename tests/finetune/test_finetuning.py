"""Runs end to end on tiny data: what is in the folder, resuming bit for bit, several processes, bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rtool.converters.bundles.reference import load_model
from rtool.errors import ConfigError, DataError, GateError, InputError, PlatformError
from rtool.finetune.config.files import load_config
from rtool.finetune.evaluation.evaluation import evaluate
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.checkpoints import load_shards, load_training_state
from rtool.finetune.runs.run_folder import read_metrics
from rtool.finetune.training import training
from rtool.finetune.training.training import Trainer

BASE = {
    "name": "tiny",
    "epochs": 2,
    "log_every": 1,
    "data": {
        "train": "synthetic-people:identities=8,images=4,seed=1,size=32x16",
        "evaluate": "synthetic-people:identities=4,images=8,seed=2,size=32x16",
        "batch": 8,
        "sampler": "pk",
        "images_per_identity": 2,
    },
    "augment": {"pad_crop": 2, "erasing": 0.5},
    "losses": [{"kind": "arcface", "scale": 16}, {"kind": "triplet"}],
    "optimizer": {"lr": 1e-3},
    "tracking": {"tensorboard": False},
}


OSNET = "model={reference: osnet_x0_25, size: [32, 16]}"


def written(folder: Path, model: dict[str, object]) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**BASE, "model": model, "output": str(folder / "runs")}))
    return path


@pytest.fixture
def config(tmp_path, tiny_model):
    return written(tmp_path, tiny_model)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last.rtool" / "weights.safetensors")


def assert_same_state(first: Path, second: Path) -> None:
    """Weights, heads, optimizer and generators, to the last bit."""
    for name, value in weights(first).items():
        assert torch.equal(value, weights(second)[name]), name
    progress, tensors = load_training_state(first / "checkpoints" / "last.rtool")
    other_progress, others = load_training_state(second / "checkpoints" / "last.rtool")
    assert progress == other_progress
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name
    for one, other in zip(*(load_shards(run / "checkpoints" / "last.rtool") for run in (first, second)), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def losses_of(run: Path) -> list[dict]:
    return [(row["step"], row["losses"]) for row in read_metrics(run) if row["kind"] == "train"]


def test_the_source_is_measured_first_and_the_run_says_what_it_gained(config, tiny_model):
    result = finetune(config, quiet=True)
    run, rows = result.run_dir, read_metrics(result.run_dir)
    expected = evaluate(tiny_model["reference"], BASE["data"]["evaluate"], preprocessing="imagenet")
    assert rows[0]["kind"] == "source"
    assert rows[0]["mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    assert result.source_metrics["rank1"] == pytest.approx(expected.rank1, abs=1e-6)
    gain = {"metric": "mAP", "before": rows[0]["mAP"], "after": result.best_metric}
    assert result.gain == {**gain, "difference": result.best_metric - rows[0]["mAP"]}
    assert json.loads((run / "result.json").read_text())["gain"] == result.gain
    line = f"mAP {rows[0]['mAP']:.4f} -> {result.best_metric:.4f} ({result.gain['difference']:+.4f})"
    assert line in (run / "log.txt").read_text().splitlines()[-1]
    page = (run / "report.html").read_text()
    assert "Before and after" in page
    assert f"<td>{rows[0]['mAP']:.4f}</td>" in page


def test_measuring_the_source_changes_no_bit_of_the_training(config):
    first = finetune(config, ["epochs=1"], quiet=True)
    second = finetune(config, ["epochs=1", "evaluation.first=false"], quiet=True)
    assert_same_state(first.run_dir, second.run_dir)
    assert second.source_metrics is None
    assert second.gain is None
    assert "Before and after" not in (second.run_dir / "report.html").read_text()


def test_a_resumed_run_does_not_measure_its_source_again(config):
    before = finetune(config, ["epochs=1"], quiet=True)
    after = finetune(config, ["epochs=2"], resume=before.run_dir, quiet=True)
    rows = read_metrics(after.run_dir)
    assert [row["step"] for row in rows if row["kind"] == "source"] == [0]
    assert after.gain["before"] == before.gain["before"]


def test_a_run_leaves_configuration_environment_log_metrics_and_checkpoints(config):
    result = finetune(config, ["tracking.tensorboard=true"], quiet=True)
    run = result.run_dir
    assert load_config(run / "config.yaml") == load_config(config, ["tracking.tensorboard=true"])
    assert json.loads((run / "env.json").read_text())["processes"] == 1
    assert "epoch 2/2" in (run / "log.txt").read_text()
    rows = read_metrics(run)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 9))
    assert len([row for row in rows if row["kind"] == "evaluation"]) == 2
    assert result.finished
    assert result.epochs == 2
    assert result.best_metric == max(row["mAP"] for row in rows if row["kind"] == "evaluation")
    assert load_model(run).preprocessing.height == 32
    assert not list(run.glob("checkpoints/.*"))
    assert (run / "metrics.csv").read_text().startswith("kind,step,epoch,losses/arcface,losses/triplet,lr")
    assert list((run / "tb").glob("events.*"))
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "data:image/png;base64," in page
    assert not re.search(r'(src|href)="http|<script|<link', page)


def test_what_was_loaded_removed_and_ignored_of_a_weights_file_is_reported(config, tmp_path):
    from rtool.converters import build_architecture

    state = build_architecture("osnet_x0_25").state_dict()
    wrapped = {f"model.{name}": value for name, value in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "w.ckpt")
    changes = [OSNET, f"model.weights={tmp_path / 'w.ckpt'}", "epochs=1", "steps_per_epoch=1"]
    result = finetune(config, changes, quiet=True)
    origin = result.weights["origin"]
    assert (origin["container"], origin["removed"], origin["ignored"]) == ("state_dict", ["model."], ["epoch"])
    assert len(result.weights["matched"]) == len(state)
    line = f"{len(state)} tensors loaded; read from 'state_dict'; 'model.' removed from the names"
    assert line in (result.run_dir / "log.txt").read_text()


def test_the_saved_model_is_the_one_that_was_evaluated(config):
    from rtool.finetune.evaluation.evaluation import evaluate

    result = finetune(config, quiet=True)
    again = evaluate(result.last, BASE["data"]["evaluate"])
    assert again.mAP == pytest.approx(result.metrics["mAP"], abs=1e-6)


def test_a_checkpoint_tells_how_it_came_to_be(config):
    """Where it began, and one link for this run with the metrics of these very weights."""
    result = finetune(config, [OSNET], quiet=True)
    chain = load_model(result.last).chain
    assert [link.step for link in chain] == ["source", "trained"]
    facts = chain[-1].facts
    assert (facts["run"], facts["epochs"], facts["steps"]) == ("tiny", result.epochs, result.steps)
    assert facts["metrics"] == json.loads((result.run_dir / "result.json").read_text())["metrics"]
    assert facts["metrics"]["mAP"] == result.metrics["mAP"]
    assert load_model(result.run_dir).name == "tiny"


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["optimizer.ema=0.9", "optimizer.kind=sgd", "optimizer.lr=0.01", "losses.0={kind: partial_fc, rate: 0.5}"],
        [
            "optimizer={kind: amsgrad, ema: 0.9, ema_warmup: true}",
            "losses.0={kind: partial_fc, rate: 0.5}",
            "losses+=[{kind: multi_similarity}, {kind: contrastive}]",
            "augment={random_patch: 0.5, rand_augment: 0.5, aug_mix: 0.5, photometric: 0.5, hue: 0.1}",
            "model.gradient_checkpointing=true",
            "evaluation.patience=9",
        ],
    ],
    ids=["adamw", "sgd with average and sampled classes", "the rest"],
)
def test_resuming_equals_the_uninterrupted_run_bit_for_bit(config, tmp_path, extra):
    whole = finetune(config, extra, quiet=True)
    overrides = [*extra, f"output={tmp_path / 'other'}", "checkpoints.every_steps=3"]
    stop_after(6, config, overrides)
    resumed = finetune(config, overrides, resume="auto", quiet=True)
    assert_same_state(whole.run_dir, resumed.run_dir)
    assert losses_of(whole.run_dir) == losses_of(resumed.run_dir)
    assert resumed.metrics == whole.metrics
    assert load_model(resumed.last).chain == load_model(whole.last).chain


def stop_after(step: int, config: Path, overrides: list[str]) -> None:
    """Send SIGTERM to this process in the middle of a run, as a scheduler would."""
    from rtool.finetune.training import training

    original = training.Trainer._report

    def report(self, meter):
        original(self, meter)
        if self._progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    patch = pytest.MonkeyPatch()
    patch.setattr(training.Trainer, "_report", report)
    try:
        result = finetune(config, overrides, quiet=True)
    finally:
        patch.undo()
    assert not result.finished
    assert result.steps == step


def test_kill_9_leaves_whole_checkpoints_and_a_run_to_resume(config, tmp_path):
    whole = finetune(config, quiet=True)
    overrides = [f"output={tmp_path / 'killed'}", "checkpoints.every_steps=1", "checkpoints.keep=3"]
    code = f"import rtool.finetune as f; f({str(config)!r}, {overrides!r}, quiet=True)"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("killed/tiny/*/checkpoints/step-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for checkpoint in tmp_path.glob("killed/tiny/*/checkpoints/step-*"):
        load_model(checkpoint)
        load_training_state(checkpoint)
    resumed = finetune(config, overrides, resume="auto", quiet=True)
    assert_same_state(whole.run_dir, resumed.run_dir)
    assert resumed.run_dir.parent.parent.name == "killed"


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, tiny_model):
    """A run of two processes, each with batches of one identity; its configuration; the caller's handlers before."""
    config = written(tmp_path_factory.mktemp("two"), tiny_model)
    options = ["threads=1", "checkpoints.every_steps=1", "checkpoints.keep=9", "evaluation.every=2"]
    options += ["losses.0={kind: partial_fc, rate: 0.5}", "data.batch=4", "data.images_per_identity=4"]
    before = [signal.getsignal(number) for number in STOPPING]
    return finetune(config, options, nproc=2, quiet=True), config, tuple(options), before


def test_two_processes_resume_bit_for_bit_and_one_can_go_on_for_them(two_processes, tmp_path):
    whole, config, options, _ = two_processes
    assert json.loads((whole.run_dir / "env.json").read_text())["processes"] == 2
    same = finetune(config, options, resume=cut_back(whole.run_dir, tmp_path / "two", step=1), nproc=2, quiet=True)
    assert_same_state(whole.run_dir, same.run_dir)
    apart = [*options, "data.images_per_identity=2"]  # on one process, a batch of one identity has no negatives
    alone = finetune(config, apart, resume=cut_back(whole.run_dir, tmp_path / "one", step=1), quiet=True)
    assert alone.finished
    assert alone.epochs == whole.epochs


def test_batches_of_one_identity_a_process_are_trained_and_reported(two_processes):
    result = two_processes[0]
    assert result.finished
    assert "data:image/png;base64," in (result.run_dir / "report.html").read_text()


def test_a_run_of_two_processes_leaves_the_handlers_of_its_caller(two_processes):
    assert [signal.getsignal(number) for number in STOPPING] == two_processes[3]


def cut_back(run: Path, copy: Path, step: int) -> Path:
    """A copy of a run as a kill after `step` leaves it."""
    shutil.copytree(run, copy, symlinks=True)
    (copy / "result.json").unlink()
    for checkpoint in (copy / "checkpoints").glob("step-*"):
        if int(checkpoint.stem.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    (copy / "checkpoints" / "last.rtool").unlink()
    (copy / "checkpoints" / "last.rtool").symlink_to(f"step-{step:08d}.rtool")
    (copy / "checkpoints" / "best.rtool").unlink()
    return copy


def test_a_finished_run_is_not_resumed(config):
    first = finetune(config, ["epochs=1"], quiet=True)
    second = finetune(config, ["epochs=1"], resume="auto", quiet=True)
    assert first.run_dir != second.run_dir


def test_frozen_layers_and_their_batchnorm_stay_and_others_move(config):
    result = finetune(config, [OSNET, "model.freeze={'conv1*': null}", "epochs=1"], quiet=True)
    torch.manual_seed(0)
    from rtool.converters import build_architecture

    fresh = build_architecture("osnet_x0_25").state_dict()
    trained = weights(result.run_dir)
    assert torch.equal(trained["conv1.conv.weight"], fresh["conv1.conv.weight"])
    assert torch.equal(trained["conv1.bn.running_mean"], fresh["conv1.bn.running_mean"])
    assert not torch.equal(trained["conv5.conv.weight"], fresh["conv5.conv.weight"])


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("model.reference=osnet_x0_26", InputError, "did you mean osnet_x0_25"),
        ("model.freeze={'conv9*': null}", ConfigError, "matches no parameter"),
        ("optimizer.lr_multipliers={'conv9*': 1}", ConfigError, "matches no parameter"),
        ("device=cuda:7", PlatformError, "GPU 7 was asked for"),
        ("data.batch=64", DataError, "lower data.batch"),
        ("model={reference: osnet_x0_25, size: [32, 16], restore_bn: true}", ConfigError, "has its BatchNorms"),
        ("model.output=1", InputError, "has 1 outputs"),
        ("evaluation.metric=map", ConfigError, "known: mAP"),
        (
            "data.evaluate='synthetic-faces:identities=4,images=2,seed=2,size=32x16'",
            DataError,
            "4 pairs of one identity",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_way_out(config, override, error, message):
    with pytest.raises(error, match=message):
        finetune(config, [override, "epochs=1", "steps_per_epoch=1"], quiet=True)
    assert not list(config.parent.glob("runs/tiny/*/checkpoints/*"))


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


def test_a_second_run_cannot_write_into_the_same_folder(config):
    from rtool.finetune.runs.run_folder import create_run_folder, run_locked

    path = create_run_folder(load_config(config))
    with run_locked(path), pytest.raises(InputError, match="another run is writing here"), run_locked(path):
        pass
