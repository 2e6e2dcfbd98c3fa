"""A run that was stopped or killed goes on to the same bits, with one process and with two."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rtool.converters.bundles.reference import load_model
from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.checkpoints import load_training_state
from rtool.finetune.runs.run_folder import read_metrics

from ..small_runs import assert_same_state, stop_after, written


def losses_of(run: Path) -> list[dict]:
    return [(row["step"], row["losses"]) for row in read_metrics(run) if row["kind"] == "train"]


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
        [
            "data.sampler=graph",
            "augment.mask=0.5",
            "augment.mask_kinds=[block]",
            "losses=[{kind: adaface, scale: 16}, {kind: qaconv, classes: embedding, neighbours: 3}, {kind: occlusion}]",
        ],
        pytest.param(
            [
                "augment.mask=0.5",
                "augment.mask_kinds=[block]",
                "losses=[{kind: qaconv, classes: memory, train_map: false}, {kind: occlusion, warmup_epochs: 0}]",
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["adamw", "sgd with average and sampled classes", "the rest", "matching by graph", "a detached map"],
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


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit_and_one_can_go_on_for_them(two_processes, tmp_path):
    whole, config, options, _ = two_processes
    assert json.loads((whole.run_dir / "env.json").read_text())["processes"] == 2
    same = finetune(config, options, resume=cut_back(whole.run_dir, tmp_path / "two", step=1), nproc=2, quiet=True)
    assert_same_state(whole.run_dir, same.run_dir)
    apart = [*options, "data.images_per_identity=2"]  # on one process, a batch of one identity has no negatives
    alone = finetune(config, apart, resume=cut_back(whole.run_dir, tmp_path / "one", step=1), quiet=True)
    assert alone.finished
    assert alone.epochs == whole.epochs


@pytest.mark.slow
def test_batches_of_one_identity_a_process_are_trained_and_reported(two_processes):
    result = two_processes[0]
    assert result.finished
    assert "data:image/png;base64," in (result.run_dir / "report.html").read_text()


@pytest.mark.slow
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
