"""Early stopping: a run ends when `evaluation.patience` evaluations in a row brought no better metric.

The count is part of `Progress`, so a resumed run stops where the uninterrupted one would have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ..processes.collectives import all_reduce_sum, rank
from .checkpoints import Progress

__all__ = ["evaluated", "patience_is_over"]


def evaluated(progress: Progress, metric: float, *, best: bool) -> Progress:
    """The progress after an evaluation that gave `metric`, the best so far or not."""
    if best:
        return replace(progress, best=metric, without_gain=0)
    return replace(progress, without_gain=progress.without_gain + 1)


def patience_is_over(
    patience: int | None, progress: Progress, device: torch.device, report: Callable[[str], None]
) -> bool:
    """Whether the run stops early, alike on every rank; says so once. A collective unless `patience` is None."""
    if patience is None:
        return False
    # Rank 0 alone evaluates, so it alone knows; the others add nothing.
    waited = torch.tensor(float(progress.without_gain if rank() == 0 else 0), device=device)
    over = bool(all_reduce_sum(waited) >= patience)
    if over:
        report(f"stopped early: {patience} evaluations in a row brought no better metric (evaluation.patience)")
    return over
