"""What a run would do, without doing it: `rtool finetune --dry-run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError
from .config import FinetuneConfig
from .data.samplers import plan_epoch
from .evaluation_plan import plan_evaluation
from .heads import build_head
from .launching import resolve_device
from .learner import Learner, check_freezing
from .networks import Network, check_restorable, images_to_tensor, load_network
from .optimizers import build_optimizer
from .prepared_data import open_training_data
from .stepping import autocast_dtype

__all__ = ["RunPlan", "plan_run"]

_STATES = {"sgd": 1, "adamw": 2}
_PROBE = 2
"""Images of the pass that measures activations."""


@dataclass(frozen=True)
class RunPlan:
    """Shapes, counts and an estimate of memory a process in bytes."""

    model: str
    input: tuple[int, int, int]
    """Channels, height, width."""
    embedding: int
    parameters: int
    head_parameters: int
    train_images: int
    train_identities: int
    held_out_images: int
    held_out_identities: int
    protocol: str
    metric: str
    """What chooses the best checkpoint."""
    batch: int
    processes: int
    steps_per_epoch: int
    epochs: int
    device: str
    memory: int
    """Weights, gradients, optimizer state and activations of one batch; not the data."""
    output: Path


def plan_run(config: FinetuneConfig, *, nproc: int = 1) -> RunPlan:
    """Resolve model, data and plan of a run; reads labels only and writes nothing.

    Raises:
        RtoolError: whatever would stop the run before its first step.
    """
    device = resolve_device(config.device)
    network = load_network(config.model)
    if config.model.restore_bn:
        check_restorable(network)
    train, held_out = open_training_data(config)
    evaluation = plan_evaluation(held_out, config.evaluation.protocol, rerank=config.evaluation.rerank)
    metric = evaluation.metric(config.evaluation.metric)
    heads = nn.ModuleList(build_head(loss, network.dimension, train.identity_count) for loss in config.losses)
    autocast = autocast_dtype(config.precision, device)
    learner = Learner(network.module, heads, output=config.model.output, autocast=autocast)
    check_freezing(learner, config.model.freeze)
    build_optimizer(config.optimizer, network.module, heads)
    data = config.data
    plan = plan_epoch(
        data.sampler,
        train.identities,
        train.cameras,
        batch=data.batch,
        images_per_identity=data.images_per_identity,
        ranks=nproc,
        seed=config.seed,
        epoch=0,
    )
    steps = len(plan) // config.optimizer.accumulate
    if steps == 0:
        raise DataError(
            f"{train.name}: an epoch has {len(plan)} batches, fewer than optimizer.accumulate "
            f"{config.optimizer.accumulate}"
        )
    size = network.preprocessing
    return RunPlan(
        model=network.name,
        input=(size.channels, size.height, size.width),
        embedding=network.dimension,
        parameters=_count(network.module),
        head_parameters=_count(heads),
        train_images=len(train),
        train_identities=train.identity_count,
        held_out_images=len(held_out),
        held_out_identities=held_out.identity_count,
        protocol=evaluation.protocol,
        metric=metric,
        batch=data.batch,
        processes=nproc,
        steps_per_epoch=min(steps, config.steps_per_epoch or steps),
        epochs=config.epochs,
        device=str(device),
        memory=_memory(config, network, heads),
        output=config.output / config.name,
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _memory(config: FinetuneConfig, network: Network, heads: nn.ModuleList) -> int:
    copies = 2 + _STATES[config.optimizer.kind] + (1 if config.optimizer.ema else 0)
    weights = 4 * copies * (_count(network.module) + _count(heads))
    return weights + _activation_bytes(config, network) * config.data.batch // _PROBE


def _activation_bytes(config: FinetuneConfig, network: Network) -> int:
    """Bytes autograd keeps for the backward pass of `_PROBE` images, parameters not counted."""
    own = {parameter.data_ptr() for parameter in network.module.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    def same(value: Any) -> Any:
        return value

    size = network.preprocessing
    pixels = torch.zeros(_PROBE, size.height, size.width, size.channels, dtype=torch.uint8)
    images = images_to_tensor(pixels, size, torch.device("cpu"), config.model.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(count, same):
        network.module(images)
    return sum(kept.values())
