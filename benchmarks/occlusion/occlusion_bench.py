"""`make bench-occlusion`: does matching see more of masked faces than the embedding alone, and what does it cost?

Each variant trains for the same steps on the same faces and masks; "embedding" is the margin loss alone. The second
image of a pair is behind a mask, or not. The gain is of the combined score, at the default weight, over the embedding
trained without matching. "embedding, as long" trains for as much processor time as matching takes.
Runs are kept in a journal as they end, so an interrupted study goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...finetune.matching.matcher import Matcher
from ..machine import describe_machine
from ..places import RESULTS
from .masked_faces import MaskedFaces, att_faces, drawn_faces
from .study import run

__all__ = ["VARIANTS", "costs", "main", "summary", "table"]

_MARGIN: Mapping[str, Any] = {"kind": "arcface", "scale": 24, "margins": [1.0, 0.3, 0.0]}
_SEEING: Mapping[str, Any] = {"kind": "occlusion", "weight": 0.3}


def _matching(**changes: Any) -> dict[str, Any]:
    return {"kind": "qaconv", "weight": 0.7, **changes}


VARIANTS: Mapping[str, list[Mapping[str, Any]]] = {
    "embedding": [_MARGIN],
    "embedding, as long": [_MARGIN],
    "without visibility": [_MARGIN, _matching(visibility="none")],
    "mask": [_MARGIN, _matching(visibility="mask"), _SEEING],
    "scaling": [_MARGIN, _matching(visibility="scaling"), _SEEING],
    "mask, published weights": [{**_MARGIN, "weight": 0.1}, _matching(visibility="mask"), _SEEING],
    "mask, map not trained": [_MARGIN, _matching(visibility="mask", train_map=False), _SEEING],
}
_LONGER: Mapping[str, float] = {"embedding, as long": 1.6}
"""Variant -> factor of its steps: a step with matching takes 1.6 times the processor time of one without."""
_SCORE = "combined0.5"
"""The combined score that is judged: at the default weight, not at the best of those tried."""
_GAIN = 0.03
"""What the combined score is to gain on masked pairs."""
_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}
"""Number of values -> the 97.5 % quantile of Student's t with one degree of freedom less."""
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""Variant -> runs, one per seed."""


def summary(runs: Runs) -> dict[str, Any]:
    """By variant: means over seeds, and the gains of its combined score over the embedding trained alone.

    A gain is a mean over the seeds that both have, with the 95 % interval of a t distribution; None with one seed.
    """
    alone = {each["seed"]: each for each in runs.get("embedding", ())}
    found: dict[str, Any] = {}
    for name, entries in runs.items():
        numbers = sorted({key for each in entries for key, value in each.items() if isinstance(value, float)})
        means = {key: round(float(np.mean([each[key] for each in entries if key in each])), 4) for key in numbers}
        found[name] = {"seeds": [each["seed"] for each in entries], "means": means}
        shared = [each for each in entries if each["seed"] in alone]
        if f"masked.{_SCORE}" in means and shared:
            for kind in ("masked", "clean"):
                gains = [each[f"{kind}.{_SCORE}"] - alone[each["seed"]][f"{kind}.embedding"] for each in shared]
                found[name][f"{kind}_gain"] = _interval(gains)
            gain, clean = found[name]["masked_gain"], found[name]["clean_gain"]
            enough = len(shared) >= 3 and clean["high"] is not None
            found[name]["passed"] = enough and gain["mean"] >= _GAIN and clean["high"] >= 0
    return found


def _interval(values: Sequence[float]) -> dict[str, float | None]:
    mean = float(np.mean(values))
    if len(values) not in _T:
        return {"mean": round(mean, 4), "low": None, "high": None}
    half = float(_T[len(values)] * np.std(values, ddof=1) / len(values) ** 0.5)
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def costs() -> dict[str, float]:
    """Seconds of 6,000 listed pairs at 7x7x512 on two cores, and GB that a step over 256 images takes beside them."""
    torch.set_num_threads(2)
    small = torch.randn(8, 512, 7, 7, requires_grad=True)
    torch.autograd.grad(Matcher((7, 7)).within(small).sum(), small)
    before = _peak()  # before anything large: a peak is never given back
    maps, visible = torch.randn(256, 512, 7, 7, requires_grad=True), torch.rand(256, 1, 7, 7)
    torch.autograd.grad(Matcher((7, 7)).within(maps, visible).sum(), maps)
    gigabytes = _peak() - before
    matcher = Matcher((7, 7)).eval()
    first, second = torch.randn(6000, 512, 7, 7), torch.randn(6000, 512, 7, 7)
    visible = torch.rand(6000, 1, 7, 7)
    with torch.no_grad():
        matcher.pairs(first[:64], second[:64], visible[:64], visible[:64])
        started = time.perf_counter()
        matcher.pairs(first, second, visible, visible)
        seconds = time.perf_counter() - started
    return {"6000_pairs_s": round(seconds, 2), "batch_of_256_gb": round(gigabytes, 3)}


def _peak() -> float:
    """The largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def table(result: Mapping[str, Any]) -> str:
    """The study as Markdown."""
    lines = []
    for faces, variants in result["faces"].items():
        lines += [f"\n{faces}: TAR at FAR 1e-2, means over seeds\n"]
        lines += ["| trained with | seeds | score | clean | second masked | gain, masked | gain, clean |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for name, found in variants.items():
            means = found["means"]
            scores = sorted({key.partition(".")[2] for key in means if key.startswith("masked.")})
            for score in scores:
                is_judged = score == _SCORE and "masked_gain" in found
                gains = [_shown(found[f"{kind}_gain"]) if is_judged else "" for kind in ("masked", "clean")]
                cells = [name, str(len(found["seeds"])), score, f"{means[f'clean.{score}']:.3f}"]
                lines.append("| " + " | ".join([*cells, f"{means[f'masked.{score}']:.3f}", *gains]) + " |")
            if "visibility_error" in means:
                error, constant = means["visibility_error"], means["visibility_error_of_1"]
                lines.append(f"| {name} | | error of visibility, constant 1 | | {error:.3f}, {constant:.3f} | | |")
    return "\n".join(lines) + "\n"


def _shown(gain: Mapping[str, float | None]) -> str:
    if gain["low"] is None:
        return f"{gain['mean']:+.3f}"
    return f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing in the journal, and write the dated result."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.occlusion.occlusion_bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--att-faces", type=Path, help="The folder of the AT&T faces, which are not part of this.")
    parser.add_argument("--journal", type=Path, default=RESULTS / "occlusion-journal.jsonl")
    parser.add_argument("--no-costs", action="store_true", help="Leave out time and memory.")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for seed in options.seeds:
        for name in options.variants:
            _add(options.journal, "drawn", name, seed, options.steps, None)
            if options.att_faces is not None:
                _add(options.journal, "AT&T", name, seed, options.steps, options.att_faces)
    result: dict[str, Any] = {"measurement": "occlusion", "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    result |= {"machine": describe_machine(), "faces": _faces(options.journal, options.steps), "steps": options.steps}
    if not options.no_costs:
        result["costs"] = costs()
    path = RESULTS / f"{result['date']}-occlusion.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(result), encoding="utf-8")
    sys.stdout.write(table(result) + f"{result.get('costs', '')}\n{path}\n")


def _rows(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()] if journal.exists() else []


def _faces(journal: Path, steps: int) -> dict[str, Any]:
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in _rows(journal):
        if row["steps"] == steps:
            runs.setdefault(row["faces"], {}).setdefault(row["variant"], []).append(row["result"])
    return {faces: summary(variants) for faces, variants in runs.items()}


def _add(journal: Path, faces: str, variant: str, seed: int, steps: int, folder: Path | None) -> None:
    """Run one variant with one seed, unless the journal has it."""
    key = {"faces": faces, "variant": variant, "seed": seed, "steps": steps}
    if any(all(row[name] == value for name, value in key.items()) for row in _rows(journal)):
        return
    train, test = _opened(folder, seed)
    found = run(train, test, VARIANTS[variant], seed=seed, steps=round(steps * _LONGER.get(variant, 1)))
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**key, "result": found}) + "\n")


def _opened(folder: Path | None, seed: int) -> tuple[MaskedFaces, MaskedFaces]:
    if folder is not None:
        return att_faces(folder, seed, masks=3)
    return drawn_faces(120, 14, 1, masks=2), drawn_faces(50, 8, 2, masks=1)


if __name__ == "__main__":
    main()
