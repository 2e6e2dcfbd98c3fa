"""The planted space: a search must not choose an operation that ignores its input.

    python -m rtool.benchmarks.searching.planted_space [--seeds 0 1 2] [--work DIR]

Operations none, noise (draws of N(0, 1), whatever the input) and sep3, after space S4 of Zela et al., arXiv:1909.09656.
Mixed search in first order, then its cell and four random ones are trained for 200 steps from fresh weights and
measured on people that neither saw. The gate: no edge of noise in any seed, and over the seeds at least twice the mean
mAP of the random cells. About 10 minutes of processor time for three seeds, of which a search takes 1.5.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ...converters.zoo.cells.drawing import random_genotype
from ...converters.zoo.cells.genotype import read_genotype
from ...finetune.config.files import parse_config
from ...finetune.finetuning import finetune
from .retraining import people, retrain, search_recipe

__all__ = ["PlantedResult", "main", "passes", "planted_search", "run_planted"]

SIZE = (64, 32)
SPACE: dict[str, Any] = {"operations": ["none", "noise", "sep3"], "cells": 4, "nodes": 3, "channels": 8}
_SEARCH: dict[str, Any] = {**SPACE, "guard": "none", "warmup": 0.1, "alpha": {"lr": 0.05}, "shortlist": 1}
_EPOCHS, _STEPS = 20, 15
"""With half of the steps an edge of noise was left in one of three seeds: the weights must learn before alpha can."""
_RETRAIN_EPOCHS, _RETRAIN_STEPS = 8, 25
_RETRAIN_LR = 1e-3
"""Of 1e-3, 3e-3 and 6e-3 that at which a cell without noise was furthest ahead of random ones with seeds 11 and 12."""
_RANDOM = 4


@dataclass(frozen=True)
class PlantedResult:
    """One seed's search, and what its cell and random ones are worth."""

    seed: int
    noise_edges: int
    """Edges of the found cell that carry noise, of 12."""
    search_seconds: float
    """Of processor time, on one thread."""
    found: float
    """Mean average precision of the found cell after retraining."""
    random: tuple[float, ...]
    """The same of random cells."""
    random_noise: tuple[int, ...]
    """Edges of noise in each of them."""

    def __str__(self) -> str:
        """One line."""
        mean = sum(self.random) / len(self.random)
        searched = f"search {self.search_seconds:.0f} s"
        return (
            f"seed {self.seed}: {self.noise_edges} noise edges, {searched}, mAP {self.found:.3f}, "
            f"random cells {mean:.3f} ({', '.join(f'{each:.3f}' for each in self.random)})"
        )


def planted_search(seed: int, work: Path) -> tuple[Path, float]:
    """The run folder of one search, and the processor seconds that it took."""
    recipe = search_recipe(
        _SEARCH, people(100, seed * 10 + 1, SIZE), SIZE, work, seed=seed, epochs=_EPOCHS, steps=_STEPS
    )
    started = time.process_time()
    run = finetune(parse_config(recipe, "planted"), quiet=True).whole().run_dir
    return run, time.process_time() - started


def run_planted(seed: int, work: Path) -> PlantedResult:
    """Search, then train the found cell and random ones in turn, all on the same people."""
    run, seconds = planted_search(seed, work)
    cell = read_genotype(run / "search" / "genotype.json")
    rng = np.random.default_rng([seed, 7])
    others = [random_genotype(cell.space, rng) for _ in range(_RANDOM)]
    train, test = people(100, seed * 10 + 1, SIZE), people(40, seed * 10 + 2, SIZE)
    scores = [
        retrain(
            each,
            train,
            test,
            SIZE,
            work / name,
            seeds=[seed],
            epochs=_RETRAIN_EPOCHS,
            steps=_RETRAIN_STEPS,
            lr=_RETRAIN_LR,
        ).mean
        for name, each in [("found", cell), *((f"random{number}", other) for number, other in enumerate(others))]
    ]
    noise = tuple(other.count("noise") for other in others)
    return PlantedResult(seed, cell.count("noise"), seconds, scores[0], tuple(scores[1:]), noise)


def passes(results: Sequence[PlantedResult]) -> bool:
    """No noise in any seed, and found cells with twice the mean of the random ones."""
    found = sum(result.found for result in results) / len(results)
    random = [each for result in results for each in result.random]
    return all(result.noise_edges == 0 for result in results) and found >= 2 * sum(random) / len(random)


def main(arguments: list[str]) -> int:
    """Run the seeds, print a line each, and return 1 where they miss the gate."""
    parser = argparse.ArgumentParser(prog="python -m rtool.benchmarks.searching.planted_space")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, help="keep runs here, instead of in a temporary folder")
    options = parser.parse_args(arguments)
    results = []
    for seed in options.seeds:
        with TemporaryDirectory() as temporary:
            work = Path(temporary) if options.work is None else options.work / f"seed{seed}"
            if options.work is not None:
                shutil.rmtree(work, ignore_errors=True)
            result = run_planted(seed, work)
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()
        if options.work is not None:
            (work / "planted.json").write_text(json.dumps(asdict(result)) + "\n", encoding="utf-8")
        results.append(result)
    return 0 if passes(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
