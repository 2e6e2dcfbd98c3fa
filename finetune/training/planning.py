"""What a run would do, without doing it: `rtool finetune --dry-run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from torch import nn

from ...converters.weights.state_dict_loading import WeightMatch
from ...errors import DataError, InputError
from ..config.config import FinetuneConfig, PartialFCLoss
from ..data.samplers import plan_epoch
from ..evaluation.plan import plan_evaluation
from ..losses.heads import build_head
from ..network.autocast import autocast_dtype
from ..network.learner import Learner, check_freezing
from ..network.memory_estimate import estimate_memory
from ..network.networks import check_restorable, load_network
from ..network.reach import hold_unreached
from ..processes.launching import count_processes, resolve_device
from .assembly import check_batch
from .optimizers import build_optimizer
from .prepared_data import open_training_data

__all__ = ["RunPlan", "plan_run"]

_STAND_IN = 2
"""Classes of PartialFC here: millions of rows need not be drawn to be counted."""


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
    weights: WeightMatch | None
    """What `model.weights` would load."""


def plan_run(config: FinetuneConfig, *, nproc: int | Literal["auto"] = 1) -> RunPlan:
    """Resolve model, data and plan of a run; reads labels only and leaves nothing behind.

    Raises:
        RtoolError: whatever would stop the run before its first step.
    """
    output = config.output / config.name
    _check_folder(output)
    processes = count_processes(nproc, config.device)
    device = resolve_device(config.device, processes=processes)
    network = load_network(config.model)
    if config.model.restore_bn:
        check_restorable(network)
    train, held_out = open_training_data(config)
    evaluation = plan_evaluation(held_out, config.evaluation.protocol, rerank=config.evaluation.rerank)
    metric = evaluation.metric(config.evaluation.metric)
    sharded = sum(isinstance(loss, PartialFCLoss) for loss in config.losses)
    heads = nn.ModuleList(
        build_head(loss, network.dimension, _STAND_IN if isinstance(loss, PartialFCLoss) else train.identity_count)
        for loss in config.losses
    )
    hold_unreached(network, config.model.output)
    autocast = autocast_dtype(config.precision, device)
    learner = Learner(network.module, heads, output=config.model.output, autocast=autocast)
    check_freezing(learner, config.model.freeze)
    check_batch(config, learner)
    learner.train()  # the estimate is of a step
    build_optimizer(config.optimizer, network.module, heads)
    data = config.data
    plan = plan_epoch(
        data.sampler,
        train.identities,
        train.cameras,
        batch=data.batch,
        images_per_identity=data.images_per_identity,
        ranks=processes,
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
        head_parameters=_count(heads) + sharded * train.identity_count * network.dimension,
        train_images=len(train),
        train_identities=train.identity_count,
        held_out_images=len(held_out),
        held_out_identities=held_out.identity_count,
        protocol=evaluation.protocol,
        metric=metric,
        batch=data.batch,
        processes=processes,
        steps_per_epoch=min(steps, config.steps_per_epoch or steps),
        epochs=config.epochs,
        device=str(device),
        memory=estimate_memory(
            config,
            network,
            _count(heads),
            identities=train.identity_count,
            processes=processes,
            autocast=autocast,
        ),
        output=output,
        weights=network.weights,
    )


def _check_folder(folder: Path) -> None:
    """Make a folder where the first one on the way to `folder` would be, and remove it: permissions do not tell, as of
    a read-only disk or to root.

    Raises:
        InputError: it cannot be made.
    """
    nearest = folder
    try:
        nearest = _nearest_existing(folder)
        with TemporaryDirectory(dir=nearest, prefix=".rtool-"):
            pass
    except OSError as error:
        reason = f"{nearest}: {error.strerror}"
        raise InputError(f"{folder}: cannot create the run folder ({reason}); set output=DIR") from error


def _nearest_existing(path: Path) -> Path:
    """`path` or the nearest of its parents; a link to nowhere is there, for no folder can be made in its place."""
    try:
        path.lstat()
    except FileNotFoundError:
        return _nearest_existing(path.parent)
    return path


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
