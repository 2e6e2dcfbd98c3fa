"""The learner of a run, put together from its configuration: backbone, heads and what is held fixed.

`assemble_learner` makes the learner that trains. A plan, which moves nothing to a device, puts its own together from
the same two parts, `build_heads` and `build_learner`.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from ...errors import ConfigError
from ..config.config import FinetuneConfig, LossConfig, OcclusionLoss, PartialFCLoss, QAConvLoss
from ..distillation.building import build_distiller
from ..distillation.panel import Teachers
from ..distillation.terms import Distiller
from ..losses.heads import build_head
from ..matching.map_heads import OcclusionHead, QAConvHead
from ..matching.map_losses import MapLosses, find_network_map, trains_map
from ..network.autocast import autocast_dtype
from ..network.feature_maps import MapTap
from ..network.learner import Learner, check_freezing
from ..network.networks import Network
from ..network.reach import hold_unreached
from .epoch import labelled_images

__all__ = ["assemble_learner", "build_heads", "build_learner"]

_SHOWN = 3


def assemble_learner(
    config: FinetuneConfig, network: Network, identities: int, device: torch.device, teachers: Teachers | None = None
) -> tuple[Learner, list[str]]:
    """Backbone, heads and terms of teachers on the device, and lines for the log; drawn alike on every rank.

    Raises:
        ConfigError: a pattern of `model.freeze` matches nothing, nothing would be trained, or batches are too small.
    """
    torch.manual_seed(config.seed)
    tap = find_network_map(config, network)
    heads = build_heads(config, network.dimension, identities, tap, device=device)
    distiller, described = None, []
    if teachers is not None:
        examples = teachers.examples(network.dimension, device)
        distiller = build_distiller(config, network, identities, examples, heads)
        described = [f"teacher {facts}" for facts in teachers.describe(examples)]
    learner, notes = build_learner(config, network, heads, autocast_dtype(config.precision, device), distiller, tap)
    notes = described + notes
    learner.to(device)
    if config.model.channels_last:
        learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return learner, notes


def build_heads(
    config: FinetuneConfig,
    dimension: int,
    identities: int,
    tap: MapTap | None = None,
    *,
    device: torch.device | None = None,
    sharded_identities: int | None = None,
) -> nn.ModuleList:
    """One head per entry of `losses`, for embeddings [N, dimension], drawn from torch's global generator.

    Args:
        config: The run.
        dimension: Length of the embedding.
        identities: Number of classes.
        tap: The feature map, where losses see one.
        device: Where PartialFC keeps its shard, which cannot be moved later; the other heads are made on the CPU.
        sharded_identities: Number of classes of PartialFC alone; by default `identities`.

    Raises:
        ConfigError: the parts of a `pcb` loss do not divide the embedding, or maps of classes take too much memory.
    """
    sharded = identities if sharded_identities is None else sharded_identities

    def build(loss: LossConfig) -> nn.Module:
        if isinstance(loss, QAConvLoss) and tap is not None:
            return QAConvHead(loss, identities, tap.channels, tap.size)
        if isinstance(loss, OcclusionLoss) and tap is not None:
            return OcclusionHead(loss, tap.channels)
        classes = sharded if isinstance(loss, PartialFCLoss) else identities
        return build_head(loss, dimension, classes, optimizer=config.optimizer, seed=config.seed, device=device)

    return nn.ModuleList(build(loss) for loss in config.losses)


def build_learner(
    config: FinetuneConfig,
    network: Network,
    heads: nn.ModuleList,
    autocast: torch.dtype | None,
    distiller: Distiller | None = None,
    tap: MapTap | None = None,
) -> tuple[Learner, list[str]]:
    """Backbone and heads as one module, frozen as in the first epoch, and lines for the log.

    Parameters of the network that no loss depends on become untrainable.

    Raises:
        ConfigError: a pattern of `model.freeze` matches nothing, nothing would be trained, or batches are too small.
    """
    maps = MapLosses.of(config, tap, list(heads))
    by_embedding = distiller is not None or len(heads) > (0 if maps is None else len(maps.places))
    unreached = hold_unreached(network, config.model.output, tap, by_embedding=by_embedding, by_map=trains_map(config))
    output, labelled = config.model.output, labelled_images(config)
    learner = Learner(
        network.module,
        heads,
        output=output,
        autocast=autocast,
        distiller=distiller,
        watching=nullcontext if distiller is None else distiller.watching,
        labelled=labelled,
        maps=maps,
    )
    check_freezing(learner, config.model.freeze)
    _check_batch(config, learner)
    names = ", ".join(unreached[:_SHOWN]) + (", ..." if len(unreached) > _SHOWN else "")
    what = f"output {config.model.output} does not depend on" if maps is None else "no loss depends on"
    note = f"{len(unreached)} parameters that {what} stay as they are: {names}"
    return learner, [note] if unreached else []


def _check_batch(config: FinetuneConfig, learner: Learner) -> None:
    """Refuse batches of one image where a BatchNorm learns in any epoch: one image has no variance.

    Raises:
        ConfigError: naming the layer.
    """
    if config.data.batch > 1:
        return
    learner.freeze(config.model.freeze, config.epochs - 1)
    learner.train()
    heads = ((f"losses.{name}", module) for name, module in learner.heads.named_modules())
    for name, module in (*learner.backbone.named_modules(), *heads):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            way = "set neck: false" if name.startswith("losses.") else "freeze the BatchNorms with model.freeze"
            raise ConfigError(
                f"data.batch 1: {name} is a BatchNorm that learns, with statistics from the batch; set "
                f"data.batch=2 or more, or {way}"
            )
