"""The learning rate over a run, as a pure function of the step; nothing to save or to resume."""

from __future__ import annotations

import math

from .config import ScheduleConfig

__all__ = ["learning_rate_factor"]


def learning_rate_factor(config: ScheduleConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Share of the peak rate that optimizer step `step` (from 0) uses.

    Linear warm-up w steps long: (step + 1) / w. After it, with t in 0..1 over the rest and f = `final`:
    cosine f + (1 - f) (1 + cos pi t) / 2; polynomial f + (1 - f) (1 - t)^power; multistep gamma^(milestones passed).
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    total = max(1, epochs * steps_per_epoch - warmup)
    progress = min(1.0, (step - warmup) / total)
    match config.kind:
        case "cosine":
            return config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2
        case "polynomial":
            return config.final + (1 - config.final) * float((1 - progress) ** config.power)
        case "multistep":
            passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
            return float(config.gamma**passed)
        case "constant":
            return 1.0
