"""An epoch as the configuration lays it out: which images make up each batch, and how they are augmented.

Training, the plan of `--dry-run` and the contact sheet all lay out their epochs here, so that they agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...errors import DataError
from ..config.config import FinetuneConfig
from ..data.dataset import Dataset
from ..data.loading import EpochSamples, TrainingPixels
from ..data.samplers import plan_epoch

__all__ = ["epoch_batches", "epoch_samples", "epoch_steps"]


def epoch_batches(config: FinetuneConfig, dataset: Dataset, *, ranks: int, epoch: int) -> NDArray[np.int64]:
    """Image numbers [batches, ranks x data.batch] of an epoch of `ranks` processes, all batches that the data fill.

    Raises:
        DataError: the data set cannot fill one batch as `data.sampler` wants it.
    """
    data = config.data
    return plan_epoch(
        data.sampler,
        dataset.identities,
        dataset.cameras,
        batch=data.batch,
        images_per_identity=data.images_per_identity,
        ranks=ranks,
        seed=config.seed,
        epoch=epoch,
    )


def epoch_steps(config: FinetuneConfig, dataset: Dataset, *, ranks: int, epoch: int) -> NDArray[np.int64]:
    """The batches of an epoch that are trained on: whole optimizer steps, at most `steps_per_epoch` of them.

    Raises:
        DataError: the data set cannot fill the batches of one step.
    """
    plan = epoch_batches(config, dataset, ranks=ranks, epoch=epoch)
    accumulate = config.optimizer.accumulate
    steps = min(len(plan) // accumulate, config.steps_per_epoch or len(plan))
    if steps == 0:
        raise DataError(
            f"{dataset.name}: an epoch has {len(plan)} batches, fewer than optimizer.accumulate {accumulate}"
        )
    return plan[: steps * accumulate]


def epoch_samples(
    config: FinetuneConfig, pixels: TrainingPixels, preprocessing: Preprocessing, *, epoch: int
) -> EpochSamples:
    """The augmented images of an epoch; padded and erased places get the mean colour of `preprocessing`, in RGB."""
    fill = preprocessing.mean[::-1] if preprocessing.channel_order == "bgr" else preprocessing.mean
    return EpochSamples(pixels, config.augment, fill, config.seed, epoch)
