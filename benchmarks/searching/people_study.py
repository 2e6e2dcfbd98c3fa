"""Found cells beside random ones on drawn people: what a search is worth here, and how much of it is noise.

    python -m rtool.benchmarks.searching.people_study [--work DIR] [--seeds 0 1 2]

Per seed of the search: a mixed search with a shortlist, and successive halving over random cells of the same space in
as many steps of single cells as took the same processor time. Their cells, 8 random ones, an OSNet x0.25 and the found
cells with as many multiplications as that one are trained from fresh weights by one recipe, three seeds each, and
measured on people that nothing else has seen. A found cell's percentile is the share of random cells whose mean it
exceeds; its interval is over the seeds of its own training. About an hour of processor time; with --work a second start
goes on where the first was stopped. A dated table goes to `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ...converters.zoo.cells.drawing import random_genotype
from ...converters.zoo.cells.genotype import Genotype, read_genotype
from ...converters.zoo.cells.network_costs import network_costs
from ...finetune.config.files import parse_config
from ...finetune.finetuning import finetune
from ..machine import describe_machine
from ..places import RESULTS
from .retraining import EMBEDDING, Retrained, people, retrain, search_recipe

__all__ = ["as_large_as", "main", "percentiles", "report"]

SIZE = (64, 32)
_SPACE: dict[str, Any] = {"cells": 3, "nodes": 3, "channels": 8}
_SEARCH: dict[str, Any] = {**_SPACE, "guard": "none", "alpha": {"lr": 0.05}, "shortlist": 8, "shortlist_steps": 100}
_EPOCHS, _STEPS = 10, 15
_RETRAIN_EPOCHS, _RETRAIN_STEPS = 16, 25
_TRAIN, _TEST = people(100, 41, SIZE), people(40, 42, SIZE)
_RANDOM = 8
_STEP_SECONDS = 0.06
"""A step of one discrete network of the space, batch 48, one thread: what the budget of halving is counted in."""


def percentiles(found: Retrained, random: Sequence[Retrained]) -> tuple[float, float, float]:
    """Share of random cells, 0..100, whose mean the found cell exceeds: of its mean, its worst and its best seed."""
    means = np.array([each.mean for each in random])
    return tuple(float(100 * (means < value).mean()) for value in (found.mean, min(found.mean_ap), max(found.mean_ap)))  # type: ignore[return-value]


def report(results: dict[str, Any]) -> str:
    """The table and its verdict, as Markdown."""
    random = {name: row for name, row in results["networks"].items() if row["role"] == "random"}
    spread = np.array([np.std(row["mAP"], ddof=1) for row in results["networks"].values()]).mean()
    between = float(np.std([np.mean(row["mAP"]) for row in random.values()], ddof=1))
    lines = [
        "| network | mAP by seed of its training | mean | parameters | multiplications | percentile |",
        "|" + "---|" * 6,
    ]
    for name, row in results["networks"].items():
        shown = " ".join(f"{value:.3f}" for value in row["mAP"])
        place = "" if row.get("percentile") is None else "{:.0f} ({:.0f} to {:.0f})".format(*row["percentile"])
        counts = f"{row['parameters']:,} | {row['macs']:,}"
        lines.append(f"| {name} | {shown} | {np.mean(row['mAP']):.3f} | {counts} | {place} |")
    places = [row["percentile"][0] for row in results["networks"].values() if row["role"] == "found"]
    reached = sum(place >= 75 for place in places)
    lines += [
        "",
        f"Standard deviation of one cell over the seeds of its training {spread:.3f}; of the means of random cells "
        f"{between:.3f}. Found cells at or above the 75th percentile: {reached} of {len(places)}.",
    ]
    return "\n".join(lines) + "\n"


def _found(seed: int, method: dict[str, Any], work: Path) -> tuple[Genotype, float]:
    """The cell of one search, and its processor seconds."""
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "seconds.json"
    genotype = work / "genotype.json"
    if not kept.exists():
        recipe = search_recipe({**_SEARCH, **method}, _TRAIN, SIZE, work, seed=seed, epochs=_EPOCHS, steps=_STEPS)
        started = time.process_time()
        run = finetune(parse_config(recipe, "people"), resume="auto", quiet=True).whole().run_dir
        genotype.write_text((run / "search" / "genotype.json").read_text(), encoding="utf-8")
        kept.write_text(json.dumps(time.process_time() - started) + "\n", encoding="utf-8")
    return read_genotype(genotype), float(json.loads(kept.read_text()))


def _study(seeds: Sequence[int], work: Path) -> dict[str, Any]:
    networks: dict[str, Any] = {}

    def trained(name: str, cell: Genotype | str, role: str, **facts: Any) -> Retrained:
        result = retrain(
            cell, _TRAIN, _TEST, SIZE, work / name, seeds=(0, 1, 2), epochs=_RETRAIN_EPOCHS, steps=_RETRAIN_STEPS
        )
        parameters, macs = (
            network_costs(cell, *SIZE, embedding_size=EMBEDDING) if isinstance(cell, Genotype) else _OSNET
        )
        networks[name] = {"role": role, "mAP": result.mean_ap, "parameters": parameters, "macs": macs, **facts}
        sys.stdout.write(f"{name}: mAP {' '.join(f'{value:.3f}' for value in result.mean_ap)}\n")
        sys.stdout.flush()
        return result

    found = {seed: _found(seed, {}, work / f"search{seed}") for seed in seeds}
    space = next(iter(found.values()))[0].space
    rng = np.random.default_rng(7)
    random = [trained(f"random {number}", random_genotype(space, rng), "random") for number in range(_RANDOM)]
    for seed, (cell, seconds) in found.items():
        result = trained(f"found {seed}", cell, "found", search_seconds=seconds)
        networks[f"found {seed}"]["percentile"] = percentiles(result, random)
        budget = {"method": "random", "shortlist": 16, "budget": round(seconds / _STEP_SECONDS)}
        halved, halving_seconds = _found(seed, budget, work / f"halving{seed}")
        result = trained(f"halving {seed}", halved, "halving", search_seconds=halving_seconds)
        networks[f"halving {seed}"]["percentile"] = percentiles(result, random)
        trained(f"found {seed}, as large as osnet_x0_25", as_large_as(cell, _OSNET[1]), "wider")
    trained("osnet_x0_25", "osnet_x0_25", "baseline")
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": describe_machine(), "networks": networks}


def as_large_as(cell: Genotype, macs: int) -> Genotype:
    """The cell with as many channels as bring its network nearest to a number of multiplications."""
    wider = [replace(cell, space=replace(cell.space, channels=channels)) for channels in range(4, 65, 4)]
    return min(wider, key=lambda each: abs(network_costs(each, *SIZE, embedding_size=EMBEDDING)[1] - macs))


_OSNET = (201_864, 5_207_680)
"""Parameters of OSNet x0.25, and its multiplications at 64x32."""


def main(arguments: list[str]) -> int:
    """Run what is missing, and write the dated results."""
    parser = argparse.ArgumentParser(prog="python -m rtool.benchmarks.searching.people_study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, help="keep runs here, instead of in a temporary folder")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as temporary:
        results = _study(options.seeds, Path(temporary) if options.work is None else options.work)
    path = RESULTS / f"{results['date']}-search.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = report(results)
    path.with_suffix(".md").write_text(f"# Cells on drawn people, {results['date']}\n\n{text}", encoding="utf-8")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
