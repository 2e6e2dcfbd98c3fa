"""What a teacher is worth: `make bench-distil`, or `python -m` this module.

Every recipe of `tasks.RECIPES` with three seeds, for people and faces: the same images and optimizer steps with and
without a teacher, losing recipes included. Results go to a dated JSON file and a table. `--journal FILE` appends each
run and goes on where the file ends. Exit code 1 when no recipe gains 3 points over training without a teacher on three
seeds, or training without labels stays below 85 % of its teacher.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ...finetune.config.config import FinetuneConfig
from ...finetune.embedding.embedders import open_embedder
from ...finetune.evaluation.evaluation import evaluate
from ...finetune.finetuning import finetune
from ..machine import describe_machine
from ..places import RESULTS
from .tasks import RECIPES, TASKS, recipe_config, teacher_of

__all__ = ["main", "summary", "table"]

_BASE, _LABEL_FREE = "no teacher", "without labels and longer"
_GAIN, _SHARE, _SEEDS = 0.03, 0.85, 3
Runs = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
"""Task -> recipe -> seed -> metric, and seconds."""


def summary(runs: Runs, teachers: Mapping[str, float]) -> dict[str, Any]:
    """By task: the mean metric of each recipe, the best gain over no teacher, and the share without labels.

    A gain is over the seeds that both have; the best recipe is among those of the most seeds.
    """
    found: dict[str, Any] = {}
    for task, recipes in runs.items():
        metric = TASKS[task].metric
        present = {name: seeds for name, seeds in recipes.items() if seeds}
        gains = {name: _gain(present, name, metric) for name in present if name != _BASE}
        counted = {name: gain for name, gain in gains.items() if gain is not None and name != _LABEL_FREE}
        most = max((len(present[name]) for name in counted), default=0)
        best = max(
            (name for name in counted if len(present[name]) == most), key=lambda name: counted[name], default=None
        )
        share = _mean(present[_LABEL_FREE], metric) / teachers[task] if _LABEL_FREE in present else None
        gained = best is not None and counted[best] >= _GAIN and most >= _SEEDS
        found[task] = {
            "metric": metric,
            "teacher": teachers[task],
            "means": {name: round(_mean(seeds, metric), 4) for name, seeds in present.items()},
            "gains": {name: round(gain, 4) for name, gain in gains.items() if gain is not None},
            "best": best,
            "seeds_of_best": most,
            "share_without_labels": None if share is None else round(share, 4),
            "passed": gained and (task != "people" or (share or 0) >= _SHARE),
        }
    return found


def _mean(seeds: Mapping[str, Mapping[str, float]], metric: str) -> float:
    return mean(run[metric] for run in seeds.values())


def _gain(recipes: Mapping[str, Mapping[str, Mapping[str, float]]], name: str, metric: str) -> float | None:
    """The mean difference to no teacher over the seeds that both have; None where there is none."""
    base = recipes.get(_BASE, {})
    shared = [seed for seed in recipes[name] if seed in base]
    return mean(recipes[name][seed][metric] - base[seed][metric] for seed in shared) if shared else None


def table(runs: Runs, found: Mapping[str, Any]) -> str:
    """Markdown: a table per task, the best recipe first."""
    lines = []
    for task, facts in found.items():
        metric = facts["metric"]
        lines += [f"## {task}: {metric} of unseen identities; the teacher reaches {facts['teacher']:.4f}", ""]
        lines += ["| recipe | mean | against no teacher | by seed | steps | CPU seconds |", "|---|---|---|---|---|---|"]
        for name, value in sorted(facts["means"].items(), key=lambda pair: -pair[1]):
            seeds = dict(sorted(runs[task][name].items()))
            each = ", ".join(f"{seed}: {run[metric]:.4f}" for seed, run in seeds.items())
            steps, seconds = (mean(run[key] for run in seeds.values()) for key in ("steps", "seconds"))
            gain = f"{facts['gains'][name]:+.4f}" if name in facts["gains"] else ""
            lines.append(f"| {name} | {value:.4f} | {gain} | {each} | {steps:.0f} | {seconds:.0f} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the journal lacks, and write the dated files."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.distillation.distil_bench", description="Measure what a teacher is worth."
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--journal", type=Path, help="a file to append runs to and to go on from")
    parser.add_argument("--folder", type=Path, help="where teachers and runs go; default: a temporary one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the dated files go")
    parser.add_argument("--runs-only", action="store_true", help="append to the journal, and write no dated files")
    parser.add_argument("--report-only", action="store_true", help="write the dated files of what the journal holds")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        runs = _read(options.journal)
        taught = {task: teacher_of(task, folder) for task in options.tasks}
        for seed in options.seeds if not options.report_only else ():
            for task in options.tasks:
                for recipe in options.recipes:
                    known = runs.setdefault(task, {}).setdefault(recipe, {})
                    if str(seed) in known:
                        continue
                    known[str(seed)] = _run(task, recipe, seed, taught[task], folder)
                    _append(options.journal, {"task": task, "recipe": recipe, "seed": seed, **known[str(seed)]})
        if options.runs_only:
            return 0
        teachers = {task: _measure_teacher(task, path) for task, path in taught.items()}
    runs = {task: recipes for task, recipes in runs.items() if task in taught}
    found = summary(runs, teachers)
    text = table(runs, found)
    sys.stdout.write(text + "\n")
    stamp = time.strftime("%Y-%m-%d")
    document = {"date": stamp, "machine": describe_machine(), "summary": found, "recipes": RECIPES, "runs": runs}
    document["tasks"] = {task: TASKS[task].config for task in runs}
    path = options.results / f"{stamp}-distillation.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(f"# What a teacher is worth, {stamp}\n\n{text}", encoding="utf-8")
    sys.stdout.write(f"{path}\n")
    return 0 if all(facts["passed"] for facts in found.values()) else 1


def _run(task: str, recipe: str, seed: int, teacher: Path, folder: Path) -> dict[str, float]:
    started = time.process_time()
    config = FinetuneConfig.model_validate(recipe_config(task, recipe, seed, teacher, folder))
    result = finetune(config, quiet=True).whole()
    metric = TASKS[task].metric
    value = round(float(result.metrics[metric]), 4)
    sys.stdout.write(f"{task}, {recipe}, seed {seed}: {metric} {value}\n")
    sys.stdout.flush()
    return {metric: value, "steps": result.steps, "seconds": round(time.process_time() - started, 1)}


def _measure_teacher(task: str, path: Path) -> float:
    """The teacher on the task's held-out images, with the mirror image as in training."""
    preprocessing = "arcface" if task == "faces" else None
    data = TASKS[task].config["data"]["evaluate"]
    result = evaluate(open_embedder(path, preprocessing=preprocessing), data)
    return round(float(vars(result)[TASKS[task].metric]), 4)


def _append(journal: Path | None, entry: Mapping[str, Any]) -> None:
    if journal is not None:
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _read(journal: Path | None) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    runs: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    lines = journal.read_text(encoding="utf-8").splitlines() if journal is not None and journal.exists() else []
    for entry in map(json.loads, lines):
        task, recipe, seed = entry.pop("task"), entry.pop("recipe"), entry.pop("seed")
        runs.setdefault(task, {}).setdefault(recipe, {})[str(seed)] = entry
    return runs


if __name__ == "__main__":
    sys.exit(main())
