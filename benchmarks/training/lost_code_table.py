"""The paired comparison of `lost_code`: ratio, paired difference with its interval, criterion, and a page of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

__all__ = ["paired", "summarise", "write_page"]

_T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""The 97.5 % point of Student's t by number of pairs."""
_RATIO = 0.99
_POINTS = 0.02


def paired(original: Sequence[float], recovered: Sequence[float]) -> dict[str, Any]:
    """Compare pairs of scores 0..1: mean ratio, mean difference, its 95 % interval by Student's t, and the criterion.

    The criterion: the mean ratio is at least .99, or the interval holds 0 and reaches less than 2 points to each side
    of the mean difference.

    Raises:
        ValueError: fewer than 2 pairs, more than 10, or another number of scores on each side.
    """
    if len(original) != len(recovered) or len(original) not in _T_95:
        raise ValueError(f"expected 2 to 10 pairs, got {len(original)} and {len(recovered)}")
    differences = [b - a for a, b in zip(original, recovered, strict=True)]
    ratio = fmean(b / a for a, b in zip(original, recovered, strict=True))
    mean = fmean(differences)
    reach = _T_95[len(differences)] * stdev(differences) / math.sqrt(len(differences))
    return {
        "pairs": len(differences),
        "mean_original": round(fmean(original), 4),
        "mean_recovered": round(fmean(recovered), 4),
        "mean_ratio": round(ratio, 4),
        "mean_difference": round(mean, 4),
        "difference_95_percent_interval": [round(mean - reach, 4), round(mean + reach, 4)],
        "passed": ratio >= _RATIO or (abs(mean) <= reach < _POINTS),
    }


def summarise(runs: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]) -> dict[str, Any]:
    """The comparison of each subject that has complete pairs.

    Args:
        runs: Lines of the journal, without those that tuned: subject, seed, arm, rate, the metric, steps and a
            digest of the training data.
        metrics: The metric of each subject.

    Raises:
        ValueError: two arms of a pair differ in their steps or data.
    """
    summary = {}
    for subject, metric in metrics.items():
        own = [run for run in runs if run["subject"] == subject]
        by_seed: dict[int, dict[str, Mapping[str, Any]]] = {}
        for run in own:
            by_seed.setdefault(run["seed"], {}).setdefault(run["arm"], run)
        pairs = [arms for _, arms in sorted(by_seed.items()) if len(arms) == 2]
        for pair in pairs:
            if any(pair["original"][key] != pair["recovered"][key] for key in ("steps", "data")):
                raise ValueError(f"{subject}, seed {pair['original']['seed']}: the arms had different steps or data")
        if len(pairs) < 2:
            continue
        scores = {arm: [float(pair[arm][metric]) for pair in pairs] for arm in ("original", "recovered")}
        summary[subject] = {
            "metric": metric,
            "rates": {arm: pairs[0][arm]["rate"] for arm in scores},
            "scores": scores,
            **paired(scores["original"], scores["recovered"]),
            "cpu_minutes": round(sum(run["cpu_seconds"] for pair in pairs for run in pair.values()) / 60, 1),
        }
    return summary


def write_page(path: Path, summary: Mapping[str, Mapping[str, Any]], date: str) -> None:
    """Write the summary as a page of Markdown."""
    lines = [
        f"# What losing the training code costs, {date}",
        "",
        "Fine-tuning on other cameras from the original checkpoint, and from its fused ONNX file with BatchNorm",
        "restored: the same seed, data, order and steps, each with its own tuned rate (`make bench-lost-code`).",
        "",
        "| subject | metric | original | recovered | mean ratio | difference, 95 % interval | pairs | rates | passed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for subject, row in summary.items():
        low, high = row["difference_95_percent_interval"]
        cells = (
            subject,
            row["metric"],
            f"{row['mean_original']:.4f}",
            f"{row['mean_recovered']:.4f}",
            f"{row['mean_ratio']:.4f}",
            f"{row['mean_difference']:+.4f} ({low:+.4f} to {high:+.4f})",
            str(row["pairs"]),
            ", ".join(f"{rate:g}" for rate in row["rates"].values()),
            "yes" if row["passed"] else "no",
        )
        lines.append(f"| {' | '.join(cells)} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
