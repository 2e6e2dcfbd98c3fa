"""The two tasks of the distillation benchmark: people and faces, each with a teacher, a smaller student and recipes.

People: the model of `rtool demo` (OSNet x0.25 at 128 x 64) teaches a fresh OSNet x0.25 at 64 x 32, a quarter of the
arithmetic. Faces: a plain convolutional network at 64 x 64, trained here once, teaches one of a quarter of its width at
32 x 32. All recipes of a task have the same images, steps, optimizer and seeds; only the terms differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...finetune.config.files import load_config
from ...finetune.finetuning import finetune
from ..places import DEMO_MODEL, EXAMPLES

__all__ = ["RECIPES", "TASKS", "Task", "recipe_config", "teacher_of", "write_plain_network"]


@dataclass(frozen=True)
class Task:
    """One task: what is trained, and what counts."""

    metric: str
    config: Mapping[str, Any]
    """The run without a teacher."""


_PEOPLE = {
    "model": {"reference": "osnet_x0_25", "size": [64, 32]},
    "data": {
        "train": "synthetic-people:identities=200,images=12,seed=1,cameras=0",
        "evaluate": "synthetic-people:identities=60,images=12,seed=2,cameras=0",
        "batch": 64,
        "sampler": "pk",
        "images_per_identity": 4,
    },
    "augment": {"flip": 0.5},
    "losses": [
        {"kind": "arcface", "scale": 24, "margins": [1.0, 0.3, 0.0]},
        {"kind": "triplet", "margin": 0.3},
    ],
    "epochs": 4,
    "optimizer": {"kind": "adamw", "lr": 3e-3, "weight_decay": 5e-4},
    "schedule": {"kind": "cosine", "warmup_epochs": 1},
}
_FACES = {
    "model": {"reference": "", "preprocessing": "arcface", "size": [32, 32]},
    "data": {
        "train": "synthetic-faces:identities=200,images=20,seed=1,size=64x64",
        "evaluate": "synthetic-faces:identities=50,images=10,seed=2,size=64x64",
        "batch": 100,
    },
    "losses": [{"kind": "arcface", "scale": 24, "margins": [1.0, 0.3, 0.0]}],
    "augment": {"flip": 0.5},
    "epochs": 5,
    "steps_per_epoch": 40,
    "optimizer": {"kind": "adamw", "lr": 2e-3, "weight_decay": 5e-4},
    "schedule": {"kind": "cosine", "warmup_epochs": 1},
}
TASKS = {"people": Task("mAP", _PEOPLE), "faces": Task("tar_at_far_1e2", _FACES)}

_CENTRES = {"kind": "class_centres", "scale": 24, "margin": 0.3}
_LAYERS = {"people": {"conv5.conv": "conv5.conv"}, "faces": {"21": "21"}}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "no teacher": {},
    "cosine": {"terms": [{"kind": "cosine", "weight": 10}]},
    "cosine alone": {"terms": [{"kind": "cosine", "weight": 10}], "losses": []},
    "RKD distance": {"terms": [{"kind": "rkd_distance", "weight": 100}]},
    "RKD angle": {"terms": [{"kind": "rkd_angle", "weight": 100}]},
    "cosine and RKD": {"terms": [{"kind": "cosine", "weight": 10}, {"kind": "rkd_distance", "weight": 100}]},
    "similarity": {"terms": [{"kind": "similarity", "weight": 1000}]},
    "class centres": {"terms": [_CENTRES], "losses": []},
    "class centres and cosine": {"terms": [_CENTRES, {"kind": "cosine", "weight": 10}], "losses": []},
    "logits": {"terms": [{"kind": "logits", "weight": 1, "scale": 24, "temperature": 2}]},
    "features": {"terms": [{"kind": "features"}]},
    "without labels": {
        "terms": [{"kind": "cosine", "weight": 10}, {"kind": "rkd_distance", "weight": 100}],
        "losses": [],
        "unlabelled": True,
    },
    "without labels and longer": {
        "terms": [{"kind": "cosine", "weight": 10}, {"kind": "rkd_distance", "weight": 100}],
        "losses": [],
        "unlabelled": True,
        "epochs": 20,
    },
}
"""By name: the terms of `distil`, other losses than the task's, whether labels are used, and other epochs."""


def teacher_of(task: str, folder: Path) -> Path:
    """The teacher's ONNX file; that of faces is trained into `folder` where it is not there yet."""
    if task == "people":
        return DEMO_MODEL
    path = folder / "faces-teacher.onnx"
    if not path.exists():
        from ...converters.exporting.pipeline import export

        start = write_plain_network(folder / "faces-start.onnx", width=32, size=64)
        changes = [f"model.reference={start}", "model.size=null", "optimizer.lr=2e-3", "epochs=12", "threads=1"]
        changes += [f"output={folder / 'runs'}", "evaluation.every=12", "evaluation.first=false"]
        run = finetune(load_config(EXAMPLES / "faces_synthetic.yaml", changes), quiet=True).whole()
        export(run.last, path)
    return path


def recipe_config(task: str, recipe: str, seed: int, teacher: Path, folder: Path) -> dict[str, Any]:
    """The configuration of one run."""
    chosen, base = RECIPES[recipe], TASKS[task].config
    config: dict[str, Any] = {**base, "name": f"{task}-{recipe.replace(' ', '-')}", "seed": seed, "threads": 1}
    config["device"] = "cpu"
    config |= {"output": str(folder / "runs"), "tracking": {"tensorboard": False}}
    config["evaluation"] = {"every": 1000, "first": False}
    if task == "faces":
        student = folder / f"faces-student-{seed}.onnx"
        if not student.exists():
            write_plain_network(student, width=8, size=32, seed=seed)
        config["model"] = {**base["model"], "reference": str(student)}
    if "epochs" in chosen:
        config["epochs"] = chosen["epochs"]
    if "losses" in chosen:
        config["losses"] = chosen["losses"]
    if "terms" in chosen:
        terms = [{**term, "layers": _LAYERS[task]} if term["kind"] == "features" else term for term in chosen["terms"]]
        config["distil"] = {"teachers": [str(teacher)], "terms": terms, "labels": not chosen.get("unlabelled")}
        config["distil"]["cache"] = str(folder / "cache")
    if chosen.get("unlabelled"):
        config["data"] = {key: base["data"][key] for key in ("train", "evaluate", "batch")}
    return config


def write_plain_network(path: Path, *, width: int, size: int, seed: int = 0) -> Path:
    """A plain convolutional network as an ONNX file that keeps its BatchNorms, untrained: four stages from `width` to
    8 `width` channels, and a 128-d embedding of square images of `size` pixels.
    """
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 3
    for wide in (width, 2 * width, 4 * width, 8 * width):
        for inputs, stride in ((channels, 2), (wide, 1)):
            layers += [nn.Conv2d(inputs, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.PReLU(wide)]
        channels = wide
    tail = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 128), nn.BatchNorm1d(128)]
    module = nn.Sequential(*layers, *tail)
    torch.onnx.export(
        module.eval(),
        (torch.zeros(2, 3, size, size),),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["images"],
        dynamic_axes={"images": {0: "batch"}},
    )
    return path
