"""At which steps of a run it is evaluated, from the configuration alone, so that a resumed run has the same moments."""

from __future__ import annotations

import math

from ...config.config import FinetuneConfig

__all__ = ["evaluation_is_due"]


def evaluation_is_due(config: FinetuneConfig, place: int, steps_per_epoch: int) -> bool:
    """Whether the run is evaluated when `place` steps of its plan are done.

    It is due at the first step at or after each multiple of the interval, and at the end of the run. Intervals are
    exact fractions: of 0.1 epochs of 5 steps every second multiple falls on a step, and each step has one evaluation.

    Args:
        config: The run.
        place: Steps done, as the plan counts them.
        steps_per_epoch: Optimizer steps of an epoch.
    """
    if config.evaluation is None or place == 0:
        return False
    if place >= config.epochs * steps_per_epoch:
        return True
    interval = config.evaluation.interval(steps_per_epoch)
    return math.floor(place / interval) > math.floor((place - 1) / interval)
