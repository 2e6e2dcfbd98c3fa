"""The accuracy gained by restoring BatchNorm: the demo's recipe with and without it, with equal data, steps and seeds.

    python -m rtool.benchmarks.export.restoring_value            all runs that today's file lacks, two minutes per run
    python -m rtool.benchmarks.export.restoring_value --seeds 0  those of one seed

A fused OSNet x0.25 is fine-tuned on people under new cameras and measured on other people under the same cameras. The
recipe's learning rate was chosen with BatchNorm in place, so the fused network is also trained at smaller ones; the
best of them for the first seed is used for all seeds, in its favour. Runs are added to a dated file, so that a stopped
benchmark can be continued; exit code 1 when the restored network is not better than the fused one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...finetune.finetuning import finetune
from ..machine import describe_machine
from ..places import EXAMPLES, RESULTS

__all__ = ["main", "summarise"]

_RECIPE = EXAMPLES / "demo.yaml"
_EPOCHS = 5
"""Half of the demo's epochs, so that a run is short."""
_RECIPE_RATE = 1.5e-3
_SMALLER_RATES = (5e-4, 1.5e-4)

Runs = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Metrics by variant and seed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs that the dated file lacks, and compare; returns 1 when the restored network is not better."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.export.restoring_value", description=_first_line()
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated file")
    options = parser.parse_args(arguments)
    path = options.results / f"{datetime.now(UTC):%Y-%m-%d}-restoring-value.json"
    runs: dict[str, dict[str, dict[str, float]]] = _earlier(path)
    for seed in options.seeds:
        for variant in _wanted(runs, seed):
            if str(seed) not in runs.setdefault(variant, {}):
                runs[variant][str(seed)] = _train(variant, seed)
                _write(path, runs)
                print(variant, seed, runs[variant][str(seed)], flush=True)  # noqa: T201
    summary = summarise(runs)
    print(json.dumps(summary, indent=2), path, sep="\n")  # noqa: T201
    return 0 if summary["restored_beats_fused"] else 1


def summarise(runs: Runs) -> dict[str, Any]:
    """Mean and spread of each variant's mAP over the seeds, and the gain of restoring over the best fused variant."""
    values = {variant: [by_seed[seed]["mAP"] for seed in by_seed] for variant, by_seed in runs.items()}
    figures = {
        variant: {
            "mAP_mean": round(float(np.mean(reached)), 4),
            "mAP_standard_deviation": round(float(np.std(reached, ddof=1)), 4) if len(reached) > 1 else None,
            "seeds": len(reached),
        }
        for variant, reached in values.items()
    }
    restored = values[_label("restored", _RECIPE_RATE)]
    gains = {
        variant: round(float(np.mean(restored) - np.mean(reached)), 4)
        for variant, reached in values.items()
        if reached is not restored and len(reached) == len(restored)
    }
    return {
        "variants": figures,
        "gain_over": gains,
        "restored_beats_fused": bool(gains) and min(gains.values()) > 0,
    }


def _wanted(runs: Runs, seed: int) -> list[str]:
    """The variants to train with `seed`: every learning rate of the fused network for the first seed, then its best."""
    fixed = [_label("restored", _RECIPE_RATE), _label("fused", _RECIPE_RATE)]
    smaller = [_label("fused", rate) for rate in _SMALLER_RATES]
    tried = {name: runs[name]["0"]["mAP"] for name in (*fixed[1:], *smaller) if "0" in runs.get(name, {})}
    if seed == 0 or len(tried) <= len(smaller):
        return [*fixed, *smaller]
    return list(dict.fromkeys([*fixed, max(tried, key=lambda name: tried[name])]))


def _label(kind: str, rate: float) -> str:
    return f"{kind}, learning rate {rate:g}"


def _train(variant: str, seed: int) -> dict[str, float]:
    kind, rate = variant.split(", learning rate ")
    with tempfile.TemporaryDirectory() as folder:
        changes = [
            f"seed={seed}",
            f"epochs={_EPOCHS}",
            f"model.restore_bn={'true' if kind == 'restored' else 'false'}",
            f"optimizer.lr={rate}",
            "evaluation.every=1000",
            "tracking.tensorboard=false",
            f"output={folder}",
        ]
        metrics = finetune(_RECIPE, changes, quiet=True).whole().metrics
    return {name: round(float(metrics[name]), 4) for name in ("mAP", "rank1")}


def _earlier(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    if not path.exists():
        return {}
    runs: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return runs


def _write(path: Path, runs: Runs) -> None:
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": f"{_RECIPE.name} with epochs={_EPOCHS}",
        "machine": describe_machine(),
        "summary": summarise(runs),
        "runs": runs,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _first_line() -> str:
    return (__doc__ or "").split("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
