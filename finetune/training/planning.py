"""The plan of a run without training: `rtool finetune --dry-run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import nn

from ...converters.records.preprocessing import Preprocessing
from ...converters.weights.weight_match import WeightMatch
from ...errors import InputError
from ..config.config import FinetuneConfig, PartialFCLoss
from ..data.dataset import Dataset
from ..distillation.building import build_distiller
from ..distillation.panel import TeacherFacts, open_teachers
from ..distillation.terms import Distiller
from ..evaluation.plan import EvaluationPlan
from ..evaluation.several_sets import choose_metric
from ..matching.map_losses import find_network_map
from ..network.autocast import autocast_dtype
from ..network.memory_estimate import estimate_memory
from ..network.networks import Network, check_restorable
from ..network.search_backbone import open_network
from ..processes.launching import count_processes, resolve_device
from .assembly import build_heads, build_learner
from .epoch import epoch_steps
from .measuring.held_out import plan_sets
from .measuring.image_check import check_images
from .optimizers import build_optimizer
from .prepared_data import open_training_data, weights_part
from .review import review_run

__all__ = ["RunPlan", "plan_run"]

_STAND_IN = 2
"""Classes of PartialFC in a plan: millions of rows need not be drawn to be counted."""


@dataclass(frozen=True)
class RunPlan:
    """Shapes, counts and the estimated memory of a run."""

    model: str
    input: tuple[int, int, int]
    """Channels, height, width."""
    embedding: int
    """Length of the embedding."""
    preprocessing: str
    """Size, channels, mean, deviation and where they come from."""
    parameters: int
    """Of the network; `head_parameters` with all the shards of PartialFC."""
    head_parameters: int
    train_images: int
    train_identities: int
    held_out_images: int
    held_out_identities: int
    protocol: str | None
    """How held-out data are measured; None where they are not."""
    metric: str | None
    """The metric that chooses the best checkpoint; None where nothing is measured."""
    batch: int
    """Images per batch on each process."""
    processes: int
    steps_per_epoch: int
    epochs: int
    device: str
    memory: int
    """Bytes per process: weights, gradients, optimizer state and activations of one batch; not the data
    and no teachers."""
    output: Path
    weights: WeightMatch | None
    """What `model.weights` would load."""
    teachers: tuple[TeacherFacts, ...] = ()
    """The teachers of distil."""
    notes: tuple[str, ...] = ()
    """Settings without effect, and what is left out of the training data."""


def plan_run(config: FinetuneConfig, *, nproc: int | Literal["auto"] = 1) -> RunPlan:
    """Resolve model, data and plan of a run, with the images of smaller data sets; nothing is left on disk.

    Args:
        config: The run.
        nproc: Processes on this machine, or "auto", as `finetune` starts them.

    Raises:
        RtoolError: whatever would stop the run before its first step.
    """
    output = config.output / config.name
    _check_folder(output)
    processes = count_processes(nproc, config.device)
    device = resolve_device(config.device, processes=processes)
    config = config.on_processes(processes)
    network = open_network(config)
    everything, held_out = open_training_data(config, network.preprocessing)
    train = weights_part(config, everything)
    images = min(config.model.calibration_images, len(train))
    restored = check_restorable(network, images) if config.model.restore_bn else ""
    evaluation, identities = config.evaluation, train.identity_count
    plans = {} if evaluation is None else plan_sets(evaluation, held_out)
    tap = find_network_map(config, network)
    heads = build_heads(config, network.dimension, identities, tap, sharded_identities=_STAND_IN)
    autocast = autocast_dtype(config.precision, device)
    distiller, teachers = _open_teachers(config, network, identities, heads, device)
    learner, notes = build_learner(config, network, heads, autocast, distiller, tap)
    build_optimizer(config.optimizer, network.module, learner.heads)
    batches = epoch_steps(config, train, ranks=processes, epoch=0)
    notes = [f"{train.name}: {note}" for note in train.notes] + notes + ([restored] if restored else [])
    notes += review_run(config, network, learner, train, batches, processes)
    notes += _images_checked(config, network.preprocessing, everything, held_out, plans)
    learner.train()  # the estimate is of a step
    sharded = sum(isinstance(loss, PartialFCLoss) for loss in config.losses)
    size = network.preprocessing
    return RunPlan(
        model=network.name,
        input=(size.channels, size.height, size.width),
        embedding=network.dimension,
        preprocessing=f"{size} ({network.preprocessing_origin})",
        parameters=_count(network.module),
        head_parameters=_count(learner.heads) + sharded * identities * network.dimension,
        train_images=len(everything),
        train_identities=identities,
        held_out_images=sum(len(dataset) for dataset in held_out.values()),
        held_out_identities=sum(dataset.identity_count for dataset in held_out.values()),
        protocol=", ".join(dict.fromkeys(plan.protocol for plan in plans.values())) or None,
        metric=None if evaluation is None else choose_metric(plans, evaluation.metric),
        batch=batches.shape[1] // processes,
        processes=processes,
        steps_per_epoch=len(batches) // config.optimizer.accumulate,
        epochs=config.epochs,
        device=str(device),
        memory=_memory(config, network, learner.heads, identities, processes, autocast),
        output=output,
        weights=network.weights,
        teachers=teachers,
        notes=tuple(notes),
    )


def _images_checked(
    config: FinetuneConfig,
    size: Preprocessing,
    train: Dataset,
    held_out: Mapping[str, Dataset],
    plans: Mapping[str, EvaluationPlan],
) -> list[str]:
    """Decode what the run would, and refuse what would stop it: see `check_images`."""
    fits = len(train) * size.height * size.width * size.channels <= config.data.memory_gb * 1e9
    compared = ("retrieval", "verification")
    measured = [(held_out[name], held_out[name].pairs is None and plans[name].protocol in compared) for name in plans]
    return check_images([(train, fits), *measured], size.resize)


def _memory(
    config: FinetuneConfig,
    network: Network,
    heads: nn.ModuleList,
    identities: int,
    processes: int,
    autocast: torch.dtype | None,
) -> int:
    count = _count(heads)
    return estimate_memory(config, network, count, identities=identities, processes=processes, autocast=autocast)


def _open_teachers(
    config: FinetuneConfig, network: Network, identities: int, heads: nn.ModuleList, device: torch.device
) -> tuple[Distiller | None, tuple[TeacherFacts, ...]]:
    """The terms of distil and the facts of its teachers, each tried on two images."""
    if config.distil is None:
        return None, ()
    without_cache = config.distil.model_copy(update={"cache": None})  # whose folder a plan does not make
    teachers = open_teachers(without_cache, config.augment, network.preprocessing, device)
    examples = teachers.examples(network.dimension, device)
    distiller = build_distiller(config, network, identities, examples, heads)
    return distiller, tuple(teachers.describe(examples))


def _check_folder(folder: Path) -> None:
    """Try whether `folder` can be made, with a temporary one in its nearest existing parent.

    Permissions alone do not show it, for instance on a read-only disk or for root.

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
    """`path` or its nearest existing parent; a broken link counts, for no folder can be made in its place."""
    try:
        path.lstat()
    except FileNotFoundError:
        return _nearest_existing(path.parent)
    return path


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
