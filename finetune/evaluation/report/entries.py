"""What was measured of one model, set by set, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..comparison import Difference
from ..measuring import Measured, measured_values
from ..several_sets import joined_metrics
from ..standalone.pair_evaluation import MeasuredPairs
from ..standalone.pair_files import result_values

__all__ = ["MAIN_METRICS", "MeasuredSet", "all_values", "mean_values"]

MAIN_METRICS = {"retrieval": "mAP", "verification": "accuracy", "classification": "top1", "templates": "auc"}
"""The usual metric of each protocol."""


@dataclass(frozen=True)
class MeasuredSet:
    """One data set."""

    name: str
    """"" for a single one without a name."""
    measured: Measured
    differences: tuple[Difference, ...] = ()
    """From the model it was compared with."""
    other: Measured | None = None
    """That model, on the same images."""
    pairs: MeasuredPairs | None = None
    """Of a pair evaluation."""

    @property
    def values(self) -> dict[str, Any]:
        """All figures by name, the protocol first."""
        result = self.measured.result
        if self.pairs is not None:
            return {"protocol": result.protocol, **result_values(self.pairs)}
        return {"protocol": result.protocol, **measured_values(result)}

    @property
    def main(self) -> tuple[str, float]:
        """The usual metric and its value."""
        values = self.values
        if self.pairs is not None:
            score = self.pairs.main_score
            return f"{score} accuracy", self.pairs.result.results[score].accuracy
        name = MAIN_METRICS.get(values["protocol"]) or next(key for key in values if key != "protocol")
        return name, float(values[name])


def mean_values(sets: Sequence[MeasuredSet]) -> dict[str, float]:
    """The means over several sets that are measured by one protocol, by metric."""
    if len(sets) < 2:
        return {}
    plans = {each.name: each.measured.plan for each in sets}
    joined = joined_metrics(plans, {each.name: each.measured.result for each in sets})
    return {key.removeprefix("mean."): value for key, value in joined.items() if key.startswith("mean.")}


def all_values(sets: Sequence[MeasuredSet], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as one JSON object: of a single unnamed set its figures, of several `sets` by name and their `mean`.

    Args:
        sets: What was measured.
        stated: Facts of the model that stand beside the figures.
    """
    entries = {each.name: {**each.values, **_compared(each)} for each in sets}
    if list(entries) == [""]:
        return {**entries[""], **stated}
    return {"sets": entries, "mean": mean_values(sets), **stated}


def _compared(entry: MeasuredSet) -> dict[str, Any]:
    if not entry.differences:
        return {}
    rows = {each.metric: {**vars(each), "beyond_noise": each.beyond_noise} for each in entry.differences}
    return {"against": rows}
