"""Under which conditions a field of the configuration has no effect, as functions that give the reason or None.

Some follow from the configuration alone; others need `RunFacts`, which data, network and machine give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..augmentation import AugmentConfig
from ..config import FinetuneConfig
from ..distillation import EMA, LogitsTerm
from ..losses import OcclusionLoss, QAConvLoss
from ..optimization import average_decay

__all__ = [
    "Check",
    "RunFacts",
    "cache",
    "curve",
    "elsewhere",
    "ema",
    "ema_warmup",
    "evaluation_steps",
    "every_steps",
    "first",
    "freeze",
    "head_lr",
    "logits_output",
    "lr",
    "means_scale",
    "milestone_steps",
    "milestones",
    "multipliers",
    "not_measured",
    "not_multistep",
    "patience",
    "random_changes",
    "runtime",
    "steps_per_epoch",
    "teacher_weight",
    "unless",
    "unseen",
    "warmup_epochs",
    "warmup_steps",
    "where",
]

_MOST_OF_START = 0.1
"""Largest share that the first weights may have in an average at the end of a run."""
_WITHOUT_WEIGHTS = ("triplet", "circle_pair", "multi_similarity", "contrastive", "center")
"""Kinds of losses that have no weights for the optimizer."""


_SEES_MAP = ("occlusion", "qaconv")
"""Kinds of losses that see the feature map."""
_READ_VISIBILITY = ("occlusion",)
"""Kinds of losses that need to know which pixels of an image show the face."""

_RANDOM_CHANGES = (
    "mask",
    "pad_crop",
    "rotation",
    "random_patch",
    "random_crop",
    "low_resolution",
    "photometric",
    "colour",
    "blur",
    "grey",
    "noise",
    "rand_augment",
    "aug_mix",
    "erasing",
)


@dataclass(frozen=True)
class RunFacts:
    """What data, network and machine make of a configuration."""

    steps_per_epoch: int
    steps_in_data: int
    """Optimizer steps per epoch that the data make; `steps_per_epoch` of them are done."""
    processes: int
    channels: int
    """Of the images."""
    several_cameras: bool
    """Whether an identity has images of two cameras."""
    backbone_learns: bool
    """Whether a parameter of the backbone learns in any epoch."""
    batchnorm_learns: bool
    """Whether a BatchNorm of the backbone learns in any epoch."""
    heads_learn: bool = True
    """Whether a loss or a term of distil has weights."""
    idle_multipliers: tuple[str, ...] = ()
    """Patterns of `optimizer.lr_multipliers` that decide the rate of no parameter that learns."""


Check = Callable[[Any, FinetuneConfig, RunFacts | None], str | None]
"""(section of the field, configuration, facts) -> why the field has no effect; None where it has one."""


def unless(wanted: Callable[[Any], bool], reason: str) -> Check:
    """A field that needs another one of its own section."""
    return lambda section, _config, _facts: None if wanted(section) else reason


def where(unwanted: Callable[[FinetuneConfig, RunFacts], bool], reason: str) -> Check:
    """A field that data, network or machine leave without effect."""
    return lambda _section, config, facts: reason if facts is not None and unwanted(config, facts) else None


def first(*checks: Check) -> Check:
    """The reason of the first check that gives one."""

    def check(section: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
        return next((found for one in checks if (found := one(section, config, facts)) is not None), None)

    return check


def freeze(model: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """Patterns that train from the start, or never within the run."""
    first = [pattern for pattern, until in model.freeze.items() if until == 0]
    late = [pattern for pattern, until in model.freeze.items() if until is not None and until > config.epochs - 1]
    if first:
        return f"'{first[0]}' trains from epoch 0, the first; write null or a later epoch"
    return f"'{late[0]}' would train after the last of {config.epochs} epochs; write null" if late else None


def lr(optimizer: Any, _config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """The backbone's rate where nothing of it learns."""
    if facts is None or facts.backbone_learns or optimizer.head_lr is None:
        return None
    return "the whole backbone stays frozen, and heads have their own rate, head_lr"


def head_lr(_optimizer: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """The rate of heads where no loss has weights, nor a term of distil, as facts tell."""
    kinds = [loss.kind for loss in config.losses]
    if config.distil is not None:
        return "neither losses nor distil has weights of its own" if facts and not facts.heads_learn else None
    return f"no loss of {', '.join(kinds)} has weights" if set(kinds) <= set(_WITHOUT_WEIGHTS) else None


def multipliers(_optimizer: Any, _config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """Patterns that decide no rate."""
    if facts is None or not facts.idle_multipliers:
        return None
    return f"'{facts.idle_multipliers[0]}' matches only parameters that never train, or that later patterns match too"


def ema(optimizer: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """An average that is too slow for the run: it stays near the weights of its start."""
    if optimizer.ema == 0 or facts is None:
        return None
    steps, left = facts.steps_per_epoch * config.epochs, 1.0
    for step in range(steps):
        left *= average_decay(optimizer.ema, step, warmup=optimizer.ema_warmup)
        if left <= _MOST_OF_START:
            return None
    fitting = 0.01 ** (1 / steps) if steps else 0.0
    return (
        f"after the run's {steps} steps the average is still {left:.1%} the weights it began with; lower it to "
        f"{fitting:.3g}, or set optimizer.ema_warmup=true"
    )


def ema_warmup(optimizer: Any, _config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """A warm-up of no average, or of one too fast to need it."""
    if optimizer.ema == 0:
        return "optimizer.ema is 0, so there is no average"
    return "an average of so low a decay needs none" if optimizer.ema <= 0.1 else None


def _beyond(length: float, end: float, unit: str) -> str | None:
    """A warm-up that lasts until the run ends, or longer; both lengths are in `unit`."""
    if length < end:
        return None
    return f"the run ends after {end:g} {unit}, before the rate falls from its peak; schedule.kind never begins"


def warmup_epochs(schedule: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """A warm-up of no length, or as long as the run."""
    if schedule.warmup_steps is not None:
        return "schedule.warmup_steps gives the length" if schedule.warmup_epochs else None
    if facts is not None and schedule.warmup_epochs and schedule.warmup_length(facts.steps_per_epoch) <= 1:
        return f"that is no more than one step of {facts.steps_per_epoch} per epoch"
    return _beyond(schedule.warmup_epochs, config.epochs, "epochs")


def warmup_steps(schedule: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """A warm-up of no length, or as long as the run."""
    if schedule.warmup_steps == 1:
        return "one step of a linear rise is the peak rate itself"
    if facts is None or not schedule.warmup_steps:
        return None
    return _beyond(schedule.warmup_steps, facts.steps_per_epoch * config.epochs, "steps")


def curve(schedule: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """A curve that never moves the rate."""
    if schedule.kind == "multistep" and not (schedule.milestones or schedule.milestone_steps):
        return "it has no milestones; set schedule.milestones, or kind: constant"
    if schedule.kind in ("cosine", "polynomial") and schedule.final == 1:
        return "schedule.final is 1, so the rate stays at its peak"
    if schedule.kind in ("cosine", "polynomial") and schedule.moves == "epoch" and config.epochs == 1:
        return "schedule.moves is epoch, and there is one epoch"
    return None


def milestones(schedule: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """Milestones of another curve, or beyond the run."""
    late = [milestone for milestone in schedule.milestones if milestone >= config.epochs]
    return not_multistep(schedule) or (
        f"the run ends after {config.epochs} epochs, before {late[0]:g}" if late else None
    )


def milestone_steps(schedule: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """Milestones of another curve, or beyond the run."""
    steps = math.inf if facts is None else facts.steps_per_epoch * config.epochs
    late = [milestone for milestone in schedule.milestone_steps if milestone >= steps]
    return not_multistep(schedule) or (f"the run ends after {steps:g} steps, before {late[0]}" if late else None)


def not_multistep(schedule: Any) -> str | None:
    """What belongs to the multistep curve alone."""
    return None if schedule.kind == "multistep" else f"schedule.kind is {schedule.kind}; set it to multistep"


def not_measured(_data: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """Held-out data of a run that measures nothing."""
    return "evaluation is null, so nothing is measured" if config.evaluation is None else None


def unseen(data: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """What pixels show, where no loss asks."""
    if data.visible is None or any(loss.kind in _READ_VISIBILITY for loss in config.losses):
        return None
    return f"no loss of {', '.join(loss.kind for loss in config.losses)} asks which pixels show the face"


def unless_seen(model: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """A map that no loss sees."""
    if model.map is None or any(loss.kind in _SEES_MAP for loss in config.losses):
        return None
    return f"no loss of {', '.join(loss.kind for loss in config.losses)} sees a feature map"


def unless_matched(_loss: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """What holds for a matcher that weighs places by visibility."""
    told = any(isinstance(loss, QAConvLoss) and loss.visibility != "none" for loss in config.losses)
    return None if told else "no loss qaconv uses what the head says"


def blind(loss: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """How visibility is used, where nothing says what is visible."""
    told = loss.visibility == "none" or any(isinstance(each, OcclusionLoss) for each in config.losses)
    return None if told else "no loss occlusion learns what is visible"


def evaluation_steps(evaluation: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """Evaluations that lie beyond the run, but for its end."""
    if facts is None or evaluation.every_steps is None:
        return None
    steps = facts.steps_per_epoch * config.epochs
    late = evaluation.every_steps >= steps
    return f"the run ends after {steps} steps, and its end is evaluated anyway" if late else None


def patience(evaluation: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """Patience that the run cannot exhaust."""
    if evaluation.patience is None or (facts is None and evaluation.every_steps is not None):
        return None
    steps = 1 if facts is None else facts.steps_per_epoch
    count = math.ceil(steps * config.epochs / evaluation.interval(steps))
    count = count if facts is None else min(count, steps * config.epochs)
    if evaluation.patience < count - 1:
        return None
    return f"the run has {count} evaluations, so it ends before it would stop"


def every_steps(checkpoints: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """Checkpoints that fall on the ends of epochs, or beyond the run."""
    every = checkpoints.every_steps
    if every is None or facts is None:
        return None
    if every >= facts.steps_per_epoch * config.epochs or every % facts.steps_per_epoch == 0:
        return f"epochs of {facts.steps_per_epoch} steps end with a checkpoint in any case, and none lies between"
    return None


def cache(distil: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """A cache of views that never come again, or of no teacher that can be cached."""
    if distil.cache is None:
        return None
    if all(teacher.reference == EMA for teacher in distil.teachers):
        return "the only teacher is ema, which moves with every step"
    changes = random_changes(config.augment)
    return f"augment.{changes[0]} makes every view a new one; only flip may change images" if changes else None


def random_changes(augment: AugmentConfig) -> list[str]:
    """The settings, other than flip, by which a view of an image is not one of two that come again."""
    return [name for name in _RANDOM_CHANGES if getattr(augment, name)]


def logits_output(teacher: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """Scores of a teacher that no term compares."""
    terms = () if config.distil is None else config.distil.terms
    compared = teacher.logits is None or any(isinstance(term, LogitsTerm) for term in terms)
    return None if compared else "distil.terms has no logits"


def means_scale(_term: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """The factor of cosines where every teacher has scores of its own."""
    teachers = () if config.distil is None else config.distil.teachers
    return "every teacher has logits of its own" if all(teacher.logits is not None for teacher in teachers) else None


def teacher_weight(_teacher: Any, config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """The share of the only teacher."""
    only = config.distil is not None and len(config.distil.teachers) == 1
    return "there is one teacher; terms have weights too" if only else None


def elsewhere(reason: str) -> Check:
    """A field of a teacher that `ema` does not have."""
    return lambda teacher, _config, _facts: reason if teacher.reference == EMA else None


def runtime(teacher: Any, _config: FinetuneConfig, _facts: RunFacts | None) -> str | None:
    """Where a teacher runs that has no choice."""
    if teacher.reference == EMA:
        return "ema runs as the student does"
    return "triton:// is always served" if teacher.reference.startswith("triton://") else None


def steps_per_epoch(_section: Any, config: FinetuneConfig, facts: RunFacts | None) -> str | None:
    """A limit above what the data make."""
    if config.steps_per_epoch is None or facts is None or facts.steps_in_data > config.steps_per_epoch:
        return None
    return f"the data make {facts.steps_in_data} steps per epoch"
