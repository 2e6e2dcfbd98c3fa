"""The optimizer and the learning rate over a run, as sections of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .section import Count, NotNegative, Positive, Section, Share

__all__ = ["OptimizerConfig", "ScheduleConfig", "average_decay"]


def average_decay(decay: float, step: int, *, warmup: bool) -> float:
    """Decay of the average at step `step`, from 0: `decay`, or with a warm-up min(decay, (1 + step) / (10 + step))."""
    return min(decay, (1 + step) / (10 + step)) if warmup else decay


class OptimizerConfig(Section):
    """How parameters are updated; torch.optim has the formulas."""

    kind: Literal["sgd", "adamw", "adam", "amsgrad", "rmsprop"] = "adamw"
    """Weight decay is apart from the gradient in adamw, and part of it in the others; amsgrad is Adam with the largest
    second moment so far. All five also update the rows of partial_fc."""
    lr: Positive = 1e-3
    """Peak learning rate of the backbone."""
    head_lr: Positive | None = None
    """Peak learning rate of heads; by default `lr`."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of sgd and rmsprop."""
    nesterov: bool = False
    """Nesterov's form of the momentum of sgd."""
    weight_decay: NotNegative = 5e-4
    """Weight decay of weights, not of norms, scales and biases."""
    clip: Positive | None = None
    """Largest norm of the gradient of all parameters together; null does not clip."""
    lr_multipliers: dict[str, NotNegative] = Field(default_factory=dict)
    """Parameter or module name pattern (as in `model.freeze`) -> factor of `lr`; the last match counts."""
    decay_norms: bool = False
    """Apply weight decay to norms, scales and biases as well."""
    accumulate: Count = 1
    """Batches per optimizer step, whose gradients are averaged."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of an exponential moving average of the weights, which is evaluated and saved instead of them; 0
    keeps none."""
    ema_warmup: bool = False
    """Let the decay of the average rise as (1 + step) / (10 + step) until it reaches `ema`, so that a short run does
    not keep the weights it began with."""

    @model_validator(mode="after")
    def _nesterov_has_a_momentum(self) -> OptimizerConfig:
        if self.kind == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is a form of the momentum, which is 0; set optimizer.momentum=0.9")
        return self


class ScheduleConfig(Section):
    """How the learning rate changes over the run."""

    kind: Literal["cosine", "multistep", "polynomial", "constant"] = "cosine"
    """Shape after the warm-up."""
    moves: Literal["step", "epoch"] = "step"
    """How often the rate changes after the warm-up, which rises at every step; epoch: at the start of each one."""
    warmup_epochs: NotNegative = 0.0
    """Epochs of linear rise from zero to the peak rate."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Length of the rise in optimizer steps, instead of `warmup_epochs`."""
    milestones: tuple[Positive, ...] = ()
    """Epochs after which multistep multiplies by `gamma`."""
    milestone_steps: tuple[Count, ...] = ()
    """Optimizer steps after which multistep multiplies by `gamma`, beside `milestones`."""
    gamma: Positive = 0.1
    """Factor of multistep."""
    power: Positive = 1.0
    """Exponent of polynomial."""
    final: Share = 0.0
    """Share of the peak rate that cosine and polynomial end at."""

    def warmup_length(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the warm-up."""
        return round(self.warmup_epochs * steps_per_epoch) if self.warmup_steps is None else self.warmup_steps
