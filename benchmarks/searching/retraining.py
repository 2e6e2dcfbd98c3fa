"""Cells trained from fresh weights on drawn people, and measured on other people: the same budget for each."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...converters.zoo.cells.genotype import Genotype, write_genotype
from ...finetune.config.files import parse_config
from ...finetune.finetuning import finetune

__all__ = ["EMBEDDING", "RECIPE", "Retrained", "people", "retrain", "search_recipe"]

EMBEDDING = 128
RECIPE: Mapping[str, Any] = {
    "threads": 1,
    "device": "cpu",
    "log_every": 1000,
    "augment": {"flip": 0.5, "pad_crop": 4},
    "losses": [{"kind": "softmax", "weight": 0.5}, {"kind": "triplet", "weight": 0.5}],
    "optimizer": {"kind": "adamw", "lr": 3e-3, "weight_decay": 5e-4},
    "tracking": {"tensorboard": False},
}
"""What a search and each training of a cell have in common: cross-entropy and batch-hard triplet, half each."""


@dataclass(frozen=True)
class Retrained:
    """A cell's mean average precision on people that neither search nor training saw, by the seed of its training."""

    mean_ap: tuple[float, ...]
    seconds: float
    """Of processor time, of all seeds."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return sum(self.mean_ap) / len(self.mean_ap)


def people(identities: int, seed: int, size: tuple[int, int]) -> str:
    """Drawn people, 12 images each."""
    return f"synthetic-people:identities={identities},images=12,seed={seed},size={size[0]}x{size[1]}"


def search_recipe(
    search: Mapping[str, Any], data: str, size: tuple[int, int], output: Path, *, seed: int, epochs: int, steps: int
) -> dict[str, Any]:
    """The configuration of a search over batches of 12 people with 4 images each; nothing is measured in it.

    Args:
        search: The section.
        data: What is trained on.
        size: Height and width of the images.
        output: Where the run goes.
        seed: Of the run.
        epochs: Of the run.
        steps: Of each epoch.
    """
    return {
        **RECIPE,
        "name": "search",
        "output": str(output),
        "seed": seed,
        "epochs": epochs,
        "steps_per_epoch": steps,
        "model": {"reference": "searched", "size": list(size)},
        "data": {"train": data, "batch": 48, "sampler": "pk", "images_per_identity": 4},
        "evaluation": None,
        "search": {"embedding_size": EMBEDDING, **search},
    }


def retrain(
    cell: Genotype | str,
    train: str,
    test: str,
    size: tuple[int, int],
    output: Path,
    *,
    seeds: Sequence[int],
    epochs: int,
    steps: int,
    lr: float | None = None,
) -> Retrained:
    """Train a cell, or a network of the zoo, once per seed, and measure its last weights; what is done is kept.

    Args:
        cell: The cell, or the name of a network.
        train: The people that it is trained on.
        test: The people that it is measured on.
        size: Height and width of the images.
        output: A folder; a second call with the same one trains what is missing.
        seeds: Of the trainings.
        epochs: Of each.
        steps: Of each epoch.
        lr: Peak learning rate; None: that of `RECIPE`.
    """
    output.mkdir(parents=True, exist_ok=True)
    kept = output / "retrained.json"
    done: dict[str, list[float]] = json.loads(kept.read_text()) if kept.exists() else {}
    model: dict[str, Any] = {"reference": cell, "size": list(size)}
    if isinstance(cell, Genotype):
        write_genotype(cell, output / "genotype.json")
        options = {"genotype": str(output / "genotype.json"), "embedding_size": EMBEDDING}
        model = {"reference": "searched", "size": list(size), "options": options}
    for seed in seeds:
        if str(seed) in done:
            continue
        config = {
            **RECIPE,
            "name": f"seed{seed}",
            "output": str(output),
            "seed": seed,
            "epochs": epochs,
            "steps_per_epoch": steps,
            "model": model,
            "data": {"train": train, "evaluate": test, "batch": 48, "sampler": "pk", "images_per_identity": 4},
            "evaluation": {"first": False, "every": epochs},
        }
        if lr is not None:
            config["optimizer"] = {**RECIPE["optimizer"], "lr": lr}
        started = time.process_time()
        result = finetune(parse_config(config, "retraining"), quiet=True).whole()
        done[str(seed)] = [float(result.metrics["mAP"]), time.process_time() - started]
        kept.write_text(json.dumps(done) + "\n", encoding="utf-8")
    chosen = [done[str(seed)] for seed in seeds]
    return Retrained(tuple(each[0] for each in chosen), sum(each[1] for each in chosen))
