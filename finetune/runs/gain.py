"""What a run gained: the source model, measured before the first step, beside the run's best checkpoint.

The source's record in metrics.jsonl has the kind "source", so it is not an evaluation of a checkpoint: it never becomes
the best one, and a checkpoint that is worse than the source is still the best of its run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["SOURCE_KIND", "Gain", "compared_metrics", "gain_facts", "measured_gain", "shown_metrics"]

SOURCE_KIND = "source"
"""Kind of the record of the source model."""
_PLACE = ("kind", "step", "epoch")


@dataclass(frozen=True)
class Gain:
    """The metric that chooses the best checkpoint, of the source model and of that checkpoint."""

    metric: str
    before: float
    after: float
    difference: float

    def __str__(self) -> str:
        """Metric, before, after and difference; a loss is said."""
        lost = "" if self.difference >= 0 else "; the source model is better than every checkpoint"
        return f"{self.metric} {self.before:.4f} -> {self.after:.4f} ({self.difference:+.4f}){lost}"


def measured_gain(records: Sequence[Mapping[str, Any]], metric: str) -> Gain | None:
    """The gain by the records of a run; None where the source or no checkpoint was measured."""
    before, after = _source(records).get(metric), _best(records, metric).get(metric)
    if before is None or after is None:
        return None
    return Gain(metric, float(before), float(after), float(after) - float(before))


def gain_facts(records: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """The fields of result.json: `source_metrics` and `gain`, each None where it was not measured."""
    source = {name: value for name, value in _source(records).items() if name not in _PLACE}
    gain = measured_gain(records, metric)
    return {"source_metrics": source or None, "gain": None if gain is None else asdict(gain)}


def compared_metrics(records: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[str, float, float, float]]:
    """Name, before, after and difference of each number that source and best checkpoint have; the metric first."""
    source, best = _source(records), _best(records, metric)
    names = [name for name in source if isinstance(source[name], float) and isinstance(best.get(name), float)]
    names.sort(key=lambda name: name != metric)
    return [(name, source[name], best[name], best[name] - source[name]) for name in names]


def shown_metrics(values: Mapping[str, Any]) -> str:
    """The numbers of an evaluation on one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float))


def _source(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The newest record of the source; one without metrics says that the earlier one no longer compares."""
    return next((row for row in reversed(records) if row["kind"] == SOURCE_KIND), {})


def _best(records: Sequence[Mapping[str, Any]], metric: str) -> Mapping[str, Any]:
    """The evaluation with the highest metric, and of equal ones the newest, as checkpoints are chosen."""
    measured = [row for row in records if row["kind"] == "evaluation" and isinstance(row.get(metric), int | float)]
    return max(reversed(measured), key=lambda row: float(row[metric]), default={})
