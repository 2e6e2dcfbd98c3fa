"""What a run would do otherwise than its configuration says, found before its first step; also for `--dry-run`.

Settings without effect are named, by the table in `config/effects`. A loss over pairs that the batches cannot feed is
refused, for it would train nothing: the batches are planned from labels alone, so those of the first epoch are counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ...errors import ConfigError
from ..config.config import FinetuneConfig
from ..config.effects.conditions import RunFacts
from ..config.effects.settings import settings_without_effect
from ..config.name_patterns import matches
from ..data.dataset import NOBODY, UNKNOWN_CAMERA, Dataset
from ..network.learner import Learner
from ..network.networks import Network
from .epoch import epoch_batches

__all__ = ["anchor_counts", "review_run"]

_PAIR_LOSSES = ("triplet", "circle_pair", "multi_similarity", "contrastive", "qaconv")
_FEW_IMAGES = 16
"""Images per process below which a search warns of it."""
_FEW_ANCHORS = 0.5
"""Share of a batch's images that are anchors, below which a warning names the sampler."""


def review_run(
    config: FinetuneConfig, network: Network, learner: Learner, train: Dataset, plan: NDArray[np.int64], ranks: int
) -> list[str]:
    """Lines for the log on settings without effect and on losses that few images feed.

    Args:
        config: The run.
        network: Its network.
        learner: Backbone and heads; left frozen as in the first epoch.
        train: The training data.
        plan: Image numbers [batches, global batch] of the first epoch's steps.
        ranks: Processes.

    Raises:
        ConfigError: no batch of the first epoch can feed a loss over pairs, or every rate of what learns is 0.
    """
    notes = settings_without_effect(config, _facts(config, network, learner, train, plan, ranks))
    if config.search is not None and config.data.batch < _FEW_IMAGES:
        notes.append(
            f"data.batch {config.data.batch}: BatchNorms of a search without weights of their own see few images per "
            f"process; {_FEW_IMAGES} to 64 are usual"
        )
    labels = train.identities[plan]
    return notes + _notes_on_anchors(config, labels[:, labels[0] != NOBODY])


def anchor_counts(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """In each batch of `labels` int64 [B, N], the images with another of their identity and one of another: int64 [B].

    These are the anchors of a loss over pairs.
    """
    ordered = np.sort(labels, axis=1)
    equal = ordered[:, 1:] == ordered[:, :-1]
    paired = np.zeros(ordered.shape, dtype=bool)
    paired[:, 1:] |= equal
    paired[:, :-1] |= equal
    several = ordered[:, 0] != ordered[:, -1]
    counts: NDArray[np.int64] = paired.sum(axis=1) * several
    return counts


def _notes_on_anchors(config: FinetuneConfig, labels: NDArray[np.int64]) -> list[str]:
    kinds = [loss.kind for loss in config.losses if loss.kind in _PAIR_LOSSES]
    if not kinds:
        return []
    counts = anchor_counts(labels)
    if not counts.any():
        raise ConfigError(
            f"losses: {kinds[0]} compares images of one identity with others, and no batch of the first epoch "
            f"({len(counts)} of {labels.shape[1]} images) has two of one identity beside another; set data.sampler=pk, "
            "and give identities with several images"
        )
    share = counts.mean() / labels.shape[1]
    if share >= _FEW_ANCHORS:
        return []
    return [
        f"losses: {kinds[0]} is fed by {share:.1%} of the images, which have another one of their identity in their "
        f"batch; {np.count_nonzero(counts)} of {len(counts)} batches have any; data.sampler=pk feeds it with all"
    ]


def _facts(
    config: FinetuneConfig, network: Network, learner: Learner, train: Dataset, plan: NDArray[np.int64], ranks: int
) -> RunFacts:
    accumulate = config.optimizer.accumulate
    names = _names_that_learn(config, learner)
    norms = {
        name for name, module in learner.backbone.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    multipliers = config.optimizer.lr_multipliers
    deciding = {name: [pattern for pattern in multipliers if matches(name, pattern)][-1:] for name in names}
    _check_rates(config, learner, deciding)
    return RunFacts(
        steps_per_epoch=len(plan) // accumulate,
        steps_in_data=len(epoch_batches(config, train, ranks=ranks, epoch=0)) // accumulate,
        processes=ranks,
        channels=network.preprocessing.channels,
        several_cameras=_several_cameras(train),
        backbone_learns=bool(names),
        heads_learn=learner.heads_learn,
        batchnorm_learns=any(name.rpartition(".")[0] in norms for name in names),
        idle_multipliers=tuple(pattern for pattern in multipliers if [pattern] not in deciding.values()),
    )


def _names_that_learn(config: FinetuneConfig, learner: Learner) -> set[str]:
    """The backbone's parameters that learn in any epoch: those of the last, for nothing is frozen later."""
    learner.freeze(config.model.freeze, config.epochs - 1)
    names = {name for name, parameter in learner.backbone.named_parameters() if parameter.requires_grad}
    learner.freeze(config.model.freeze, 0)
    return names


def _check_rates(config: FinetuneConfig, learner: Learner, deciding: dict[str, list[str]]) -> None:
    """Refuse multipliers that hold everything that learns at the rate 0.

    Raises:
        ConfigError: naming the patterns.
    """
    multipliers = config.optimizer.lr_multipliers
    zero = [pattern[0] if pattern and multipliers[pattern[0]] == 0 else None for pattern in deciding.values()]
    if zero and all(zero) and not learner.heads_learn:
        patterns = ", ".join(f"'{pattern}'" for pattern in sorted({str(pattern) for pattern in zero}))
        raise ConfigError(
            f"optimizer.lr_multipliers: {patterns} hold the rate of the whole network at 0 and no loss has weights of "
            "its own, so nothing would be trained; leave some layers out"
        )


def _several_cameras(train: Dataset) -> bool:
    known = train.cameras != UNKNOWN_CAMERA
    pairs = np.unique(np.stack([train.identities[known], train.cameras[known]], axis=1), axis=0)
    return len(np.unique(pairs[:, 0])) < len(pairs)
