"""The learning rate over a run, as a pure function of the position in its plan; it has no state to save.

The position is counted in steps of the present plan, so a run that continues with other batches, or on another number
of processes, continues along the same curve. Sources: linear warm-up, Goyal et al., "Accurate, Large Minibatch SGD:
Training ImageNet in 1 Hour", arXiv:1706.02677; cosine, Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with
Warm Restarts", arXiv:1608.03983, here without restarts.
"""

from __future__ import annotations

import math

from ..config.config import ScheduleConfig

__all__ = ["learning_rate_factor"]


def learning_rate_factor(config: ScheduleConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Share of the peak learning rate, 0..1, at optimizer step `step`, counted from 0.

    Linear warm-up w steps long: (step + 1) / w. After it, with t in 0..1 over the rest and f = `final`:
    cosine f + (1 - f) (1 + cos pi t) / 2; polynomial f + (1 - f) (1 - t)^power; multistep gamma^(milestones passed).
    With `moves` "epoch" all steps of an epoch use the rate of its first one, or of the first after the warm-up.
    """
    warmup = config.warmup_length(steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if config.moves == "epoch":
        step = max(warmup, step - step % steps_per_epoch)
    total = max(1, epochs * steps_per_epoch - warmup)
    progress = min(1.0, (step - warmup) / total)
    match config.kind:
        case "cosine":
            return config.final + (1 - config.final) * (1 + math.cos(math.pi * progress)) / 2
        case "polynomial":
            return config.final + (1 - config.final) * float((1 - progress) ** config.power)
        case "multistep":
            passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
            passed += sum(step >= milestone for milestone in config.milestone_steps)
            return float(config.gamma**passed)
        case "constant":
            return 1.0
