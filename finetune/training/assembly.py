"""The learner of a run, put together from its configuration: backbone, heads and what is held fixed."""

from __future__ import annotations

import torch
from torch import nn

from ...errors import ConfigError
from ..config.config import FinetuneConfig
from ..losses.heads import build_head
from ..network.autocast import autocast_dtype
from ..network.learner import Learner, check_freezing
from ..network.networks import Network
from ..network.reach import hold_unreached
from .prepared_data import PreparedData

__all__ = ["assemble_learner", "check_batch"]

_SHOWN = 3


def assemble_learner(
    config: FinetuneConfig, network: Network, data: PreparedData, device: torch.device
) -> tuple[Learner, list[str]]:
    """Backbone and heads on the device, and lines for the log; heads are drawn from the seed, alike on every rank.

    Raises:
        ConfigError: a pattern of `model.freeze` matches nothing, nothing would be trained, or batches are too small.
    """
    unreached = hold_unreached(network, config.model.output)
    torch.manual_seed(config.seed)
    identities = data.train.dataset.identity_count
    heads = nn.ModuleList(
        build_head(loss, network.dimension, identities, seed=config.seed, device=device) for loss in config.losses
    )
    autocast = autocast_dtype(config.precision, device)
    learner = Learner(network.module, heads, output=config.model.output, autocast=autocast).to(device)
    check_freezing(learner, config.model.freeze)
    check_batch(config, learner)
    if config.model.channels_last:
        learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    names = ", ".join(unreached[:_SHOWN]) + (", ..." if len(unreached) > _SHOWN else "")
    note = f"{len(unreached)} parameters that output {config.model.output} does not depend on stay as they are: {names}"
    return learner, [note] if unreached else []


def check_batch(config: FinetuneConfig, learner: Learner) -> None:
    """Refuse batches of one image where a BatchNorm learns in any epoch: one image has no variance.

    Raises:
        ConfigError: naming the layer.
    """
    if config.data.batch > 1:
        return
    learner.freeze(config.model.freeze, config.epochs - 1)
    learner.train()
    for name, module in learner.backbone.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ConfigError(
                f"data.batch 1: {name} is a BatchNorm that learns, and takes its statistics from the batch; set "
                "data.batch=2 or more, or freeze the BatchNorms with model.freeze"
            )
