"""Optimizer steps as ONNX's training preview defines them; they differ from `torch.optim` in detail.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["adagrad_step", "adam_step", "momentum_step"]


def momentum_step(
    rate: Tensor,
    step: Tensor,
    x: Tensor,
    gradient: Tensor,
    velocity: Tensor,
    *,
    alpha: float,
    beta: float,
    decay: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor]:
    """New tensor and velocity; step 0 uses the whole gradient, later steps `beta` times the gradient."""
    gradient = decay * x + gradient
    velocity = alpha * velocity + torch.where(step > 0, beta, 1.0) * gradient
    change = gradient + alpha * velocity if nesterov else velocity
    return x - rate * change, velocity


def adagrad_step(
    rate: Tensor,
    step: Tensor,
    x: Tensor,
    gradient: Tensor,
    squares: Tensor,
    *,
    rate_decay: float,
    epsilon: float,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """New tensor and sum of squared gradients."""
    rate = rate / (1 + step * rate_decay)
    gradient = decay * x + gradient
    squares = squares + gradient * gradient
    return x - rate * gradient / (squares.sqrt() + epsilon), squares


def adam_step(
    rate: Tensor,
    step: Tensor,
    x: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    *,
    alpha: float,
    beta: float,
    epsilon: float,
    decay: float,
    decay_after: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """New tensor and both moments; their bias is corrected from step 1 on."""
    gradient = decay * x + gradient
    mean = alpha * mean + (1 - alpha) * gradient
    square = beta * square + (1 - beta) * gradient * gradient
    corrected = rate * torch.sqrt(1 - beta**step) / (1 - alpha**step)
    rate = torch.where(step > 0, corrected, rate)
    x = x - rate * mean / (square.sqrt() + epsilon)
    return (1 - decay_after) * x, mean, square
