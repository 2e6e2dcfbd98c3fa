"""The link that a checkpoint's provenance gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...converters.records.provenance import ChainLink, tool_versions
from .checkpoints import Progress

__all__ = ["trained_link"]


def trained_link(run: str, progress: Progress, evaluated: tuple[int, Mapping[str, Any]]) -> ChainLink:
    """How a checkpoint was trained; with metrics only if these very weights were evaluated.

    Args:
        run: Name of the run.
        progress: Where the run is.
        evaluated: Step and metrics of the last evaluation.
    """
    step, values = evaluated
    metrics = dict(values) if step == progress.step else {}
    shown = "".join(f", {name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float))
    facts = {"run": run, "epochs": progress.epoch, "steps": progress.step, "metrics": metrics}
    detail = f"run {run}, {progress.epoch} epochs, {progress.step} steps{shown}"
    return ChainLink("trained", detail, facts | {"best_metric": progress.best, "versions": tool_versions()})
