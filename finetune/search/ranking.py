"""Cells trained and ranked, in one round or in several, each of which keeps the better half: successive halving.

Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", arXiv:1502.07943; as
the baseline that a search must beat: Li and Talwalkar, "Random Search and Reproducibility for Neural Architecture
Search", arXiv:1902.07638. A cell that is kept goes on training from where it was.

    search/shortlist.json   every cell, its metric after each round, and which one was found
    search/cells/           weights and optimizers of cells between two rounds, deleted at the end

Both are written after each cell, so a run that was stopped continues with the next one, to the same result.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ...converters.files.atomic_file import write_atomically
from ...converters.records.json_text import parse_json
from ..processes.collectives import barrier, rank
from .brief_training import BriefTraining
from .cells import Candidate

__all__ = ["Ranked", "Round", "halving_rounds", "rank_cells"]

FILE = "shortlist.json"


@dataclass(frozen=True)
class Round:
    """How many of the cells are trained, to which step each."""

    cells: int
    until: int


@dataclass(frozen=True)
class Ranked:
    """A cell, its number among the candidates, and its metric after each round that it took part in."""

    number: int
    candidate: Candidate
    metrics: tuple[float, ...]


def halving_rounds(cells: int, budget: int) -> list[Round]:
    """Rounds of n, n/2, ..., 2 cells, each with an equal part of `budget` steps of single cells."""
    counts = [cells]
    while counts[-1] > 3:
        counts.append(counts[-1] // 2)
    rounds, until = [], 0
    for count in counts:
        until += max(1, budget // len(counts) // count)
        rounds.append(Round(count, until))
    return rounds


def rank_cells(
    candidates: Sequence[Candidate],
    rounds: Sequence[Round],
    build: Callable[[int, Candidate], BriefTraining],
    folder: Path,
    *,
    metric: str,
    stops: Callable[[], bool],
    log: Callable[[str], object],
    after_cell: Callable[[int, BriefTraining], object] = lambda *_: None,
) -> list[Ranked]:
    """All cells, the best of the last round first; of equal ones that of the lower number. A collective.

    Args:
        candidates: The cells.
        rounds: What is trained; the first round has all cells.
        build: A training of a candidate, with fresh weights.
        folder: `search/` of the run.
        metric: The name of what cells are ranked by.
        stops: Whether this process was asked to stop.
        log: Takes a line per cell.
        after_cell: Called after each training with the cell's number, on every process.

    Raises:
        StoppedError: the run was asked to stop; the next call continues.
    """
    known = _read(folder, candidates)
    metrics: list[list[float]] = [list(each) for each in known]
    states = folder / "cells"
    alive = list(range(len(candidates)))
    for number, each in enumerate(rounds):
        if number:
            alive = sorted(alive, key=lambda cell: _worst_last(metrics[cell][number - 1]))[: each.cells]
        for cell in sorted(alive):
            if len(metrics[cell]) > number:
                continue
            started = time.perf_counter()
            training = build(cell, candidates[cell])
            state = states / f"cell-{cell:03d}.safetensors"
            if number:
                training.load(load_file(state))
            training.train(each.until, stops)
            metrics[cell].append(training.measure())
            if number + 1 < len(rounds):
                _save_state(training, state)
            _write(folder, candidates, metrics, metric, found=None)
            after_cell(cell, training)
            seconds = time.perf_counter() - started
            log(
                f"cell {cell + 1} of {len(candidates)} ({candidates[cell].origin}), {each.until} steps: {metric} "
                f"{metrics[cell][number]:.4f}  {seconds:.0f} s"
            )
    order = sorted(range(len(candidates)), key=lambda cell: (-len(metrics[cell]), _worst_last(metrics[cell][-1])))
    _write(folder, candidates, metrics, metric, found=order[0])
    if rank() == 0:
        shutil.rmtree(states, ignore_errors=True)
    barrier()
    return [Ranked(cell, candidates[cell], tuple(metrics[cell])) for cell in order]


def _worst_last(metric: float) -> float:
    """A sort key: larger metrics first, NaN last."""
    return math.inf if math.isnan(metric) else -metric


def _save_state(training: BriefTraining, path: Path) -> None:
    """Write what the next round continues from, in full or not at all."""
    tensors = training.state()
    if rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        save_file(tensors, temporary)
        temporary.replace(path)
    barrier()


def _write(
    folder: Path, candidates: Sequence[Candidate], metrics: list[list[float]], metric: str, found: int | None
) -> None:
    if rank() == 0:
        rows = [
            {
                "cell": number,
                "origin": candidate.origin,
                "metrics": [None if math.isnan(value) else value for value in metrics[number]],
                "genotype": candidate.genotype.to_json(),
            }
            for number, candidate in enumerate(candidates)
        ]
        content = {"metric": metric, "found": found, "cells": rows}
        write_atomically(folder / FILE, (json.dumps(content, indent=1) + "\n").encode())
    barrier()


def _read(folder: Path, candidates: Sequence[Candidate]) -> list[list[float]]:
    """The metrics of each candidate that an earlier start of the run wrote; none where it had other candidates."""
    path = folder / FILE
    none: list[list[float]] = [[] for _ in candidates]
    if not path.is_file():
        return none
    rows: list[dict[str, Any]] = parse_json(path.read_text(encoding="utf-8"))["cells"]
    if [row["genotype"] for row in rows] != [candidate.genotype.to_json() for candidate in candidates]:
        return none
    return [[math.nan if value is None else float(value) for value in row["metrics"]] for row in rows]
