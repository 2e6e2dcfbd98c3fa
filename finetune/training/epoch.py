"""An epoch as the configuration lays it out: which images make up each batch, and how they are augmented.

Training, the plan of `--dry-run` and the contact sheet all lay out their epochs here, so that they agree.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...errors import DataError
from ..config.config import FinetuneConfig
from ..data.dataset import NOBODY, Dataset
from ..data.loading import EpochSamples, TrainingPixels
from ..data.samplers import plan_epoch

__all__ = ["epoch_batches", "epoch_samples", "epoch_steps", "labelled_images"]


def labelled_images(config: FinetuneConfig) -> int | None:
    """Images of each process's batch that have labels, from the first on; None where all have."""
    distil = config.distil
    if distil is None or (distil.labels and distil.unlabelled is None):
        return None
    return config.data.batch if distil.labels else 0


def epoch_batches(config: FinetuneConfig, dataset: Dataset, *, ranks: int, epoch: int) -> NDArray[np.int64]:
    """Image numbers [batches, ranks x batch] of an epoch of `ranks` processes, all batches that the data fill.

    A batch is `data.batch` images, and behind them `distil.unlabelled_batch` without labels where there are any. An
    epoch is one over the labelled images; those without labels go round as often as it takes.

    Raises:
        DataError: the data set cannot fill one batch as `data.sampler` wants it.
    """
    data, distil = config.data, config.distil
    labelled = np.arange(len(dataset))
    if distil is not None and distil.labels and distil.unlabelled is not None:
        labelled = np.flatnonzero(dataset.identities != NOBODY)
    plan = labelled[
        plan_epoch(
            data.sampler,
            dataset.identities[labelled],
            dataset.cameras[labelled],
            batch=data.batch,
            images_per_identity=data.images_per_identity,
            ranks=ranks,
            seed=config.seed,
            epoch=epoch,
        )
    ]
    if distil is None or len(labelled) == len(dataset):
        return plan
    others = np.setdiff1d(np.arange(len(dataset)), labelled)
    rng = np.random.default_rng([config.seed, epoch, 1])
    wanted = len(plan) * ranks * distil.unlabelled_batch
    drawn = np.concatenate([rng.permutation(others) for _ in range(-(-wanted // len(others)))])[:wanted]
    shared = [rows.reshape(len(plan), ranks, -1) for rows in (plan, drawn)]
    joined: NDArray[np.int64] = np.concatenate(shared, axis=2).reshape(len(plan), -1)
    return joined


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
