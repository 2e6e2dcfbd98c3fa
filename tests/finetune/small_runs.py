"""Runs of seconds with several losses, what they leave, and how two of them are compared to the last bit."""

import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rtool.finetune.finetuning import finetune
from rtool.finetune.runs.checkpoints import load_shards, load_training_state

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
