"""The metrics of a run that is measured on several sets: NAME.METRIC of each, and mean.METRIC over all of them.

A run with one set has its metrics by their own names. A mean is taken where every set is measured by one protocol: the
rank-1 of a retrieval and that of a verification are different things.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError, nearest
from ..config.sources import MEAN
from .measuring import EvaluationResult, measured_values
from .own_function import OwnResult
from .plan import EvaluationPlan

__all__ = ["choose_metric", "joined_metrics"]


def choose_metric(plans: Mapping[str, EvaluationPlan], asked: str | None) -> str:
    """The metric that chooses the best checkpoint: `asked`, or the mean of the usual metric, or that of the first set.

    Args:
        plans: How each set is measured, by name; a single set is named "".
        asked: `evaluation.metric`.

    Raises:
        ConfigError: no such metric is measured; lists what is.
    """
    if len(plans) == 1 and "" in plans:
        return plans[""].metric(asked)
    each = [f"{name}.{metric}" for name, plan in plans.items() for metric in plan.metrics]
    names = [f"{MEAN}.{metric}" for metric in _common(plans)] + each
    own = [name for name, plan in plans.items() if plan.protocol == "function"]
    if own:  # what the function returns is known once it was called
        names += [f"{place}.{{value}}" for place in (MEAN, *own)]
        if asked is not None and asked.partition(".")[0] in (MEAN, *own) and asked.partition(".")[2]:
            return asked
    if asked is None and not own:
        return names[0]
    if asked is None:
        raise ConfigError(f"evaluation.metric: name the value that chooses checkpoints: {', '.join(names)}")
    if asked not in names:
        raise ConfigError(f"evaluation.metric: these sets have no '{asked}'; {nearest(asked, names)}")
    return asked


def joined_metrics(plans: Mapping[str, EvaluationPlan], results: Mapping[str, EvaluationResult]) -> dict[str, Any]:
    """All values of all sets under their names, and the means; a mean over an unknown value is None."""
    if len(results) == 1 and "" in results:
        return measured_values(results[""])
    values = {name: measured_values(result) for name, result in results.items()}
    joined = {f"{name}.{key}": value for name, found in values.items() for key, value in found.items()}
    for metric in _common(plans) or _common_values(results):
        numbers = [found[metric] for found in values.values()]
        joined[f"{MEAN}.{metric}"] = None if None in numbers else sum(numbers) / len(numbers)
    return joined


def _common(plans: Mapping[str, EvaluationPlan]) -> list[str]:
    """The metrics that every set has, the usual one first; none where protocols differ, or for a single set."""
    first, *others = plans.values()
    if not others or any(plan.protocol != first.protocol for plan in others):
        return []
    return [metric for metric in first.metrics if all(metric in plan.metrics for plan in others)]


def _common_values(results: Mapping[str, EvaluationResult]) -> list[str]:
    """The names that an own function returned for every set."""
    own = [result.values for result in results.values() if isinstance(result, OwnResult)]
    if len(own) < max(2, len(results)):
        return []
    return [name for name in own[0] if all(name in values for values in own)]
