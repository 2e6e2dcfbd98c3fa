"""An epoch as the configuration lays it out: which images make up each batch, and how they are augmented.

Training, the plan of `--dry-run` and the contact sheet all lay out their epochs here, so that they agree.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...errors import DataError
from ..config.config import FinetuneConfig
from ..data.dataset import NOBODY, Dataset
from ..data.loading import Batch, EpochSamples, TrainingPixels, iterate_batches
from ..data.occlusion.face_points import template_points
from ..data.occlusion.shapes import POINTED_KINDS
from ..data.samplers import plan_epoch, rank_columns
from ..matching.map_losses import matching_model
from ..matching.nearest_people import nearest_people, one_image_each
from ..network.learner import Learner
from ..network.networks import images_to_tensor
from ..processes.collectives import rank, world_size

__all__ = [
    "confused_people",
    "epoch_batches",
    "epoch_samples",
    "epoch_steps",
    "image_rounds",
    "labelled_images",
    "mask_points",
    "rank_share",
]

_MOST_ROUNDS = 1 << 20
"""Rounds over the images per epoch in `image_rounds`, at the most: so that each has a seed of its own."""


def labelled_images(config: FinetuneConfig) -> int | None:
    """Images of each process's batch that have labels, from the first on; None where all have."""
    distil = config.distil
    if distil is None or (distil.labels and distil.unlabelled is None):
        return None
    return config.data.batch if distil.labels else 0


def epoch_batches(
    config: FinetuneConfig, dataset: Dataset, *, ranks: int, epoch: int, nearest: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Image numbers [batches, ranks x batch] of an epoch of `ranks` processes, all batches that the data fill.

    A batch is `data.batch` images, and behind them `distil.unlabelled_batch` without labels where there are any. An
    epoch is one over the labelled images; those without labels go round as often as it takes. `nearest` is what
    `confused_people` gave.

    Raises:
        DataError: the data set cannot fill one batch as `data.sampler` wants it.
    """
    data, distil = config.data, config.distil

    def plan(identities: NDArray[np.int64], cameras: NDArray[np.int64]) -> NDArray[np.int64]:
        return plan_epoch(
            data.sampler,
            identities,
            cameras,
            batch=data.batch,
            images_per_identity=data.images_per_identity,
            ranks=ranks,
            seed=config.seed,
            epoch=epoch,
            nearest=nearest,
        )

    if distil is None or not distil.labels or distil.unlabelled is None:
        return plan(dataset.identities, dataset.cameras)
    labelled, others = (np.flatnonzero((dataset.identities == NOBODY) == nobody) for nobody in (False, True))
    known = labelled[plan(dataset.identities[labelled], dataset.cameras[labelled])]
    rng = np.random.default_rng([config.seed, epoch, 1])
    wanted = len(known) * ranks * distil.unlabelled_batch
    drawn = np.concatenate([rng.permutation(others) for _ in range(-(-wanted // len(others)))])[:wanted]
    joined: NDArray[np.int64] = np.concatenate([known, drawn.reshape(len(known), -1)], axis=1)
    return joined


def rank_share(config: FinetuneConfig, plan: NDArray[np.int64], rank: int, ranks: int) -> NDArray[np.int64]:
    """The columns of a plan [batches, global batch] that process `rank` of `ranks` trains on: int64 [batch].

    Those with labels come first, and each process has as many of them.
    """
    columns = np.arange(plan.shape[1])
    known = labelled_images(config) or 0
    parts = columns[: known * ranks], columns[known * ranks :]
    return np.concatenate([part[rank_columns(part[None], rank, ranks)] for part in parts])


def epoch_steps(
    config: FinetuneConfig, dataset: Dataset, *, ranks: int, epoch: int, nearest: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The batches of an epoch that are trained on: whole optimizer steps, at most `steps_per_epoch` of them.

    Raises:
        DataError: the data set cannot fill the batches of one step.
    """
    plan = epoch_batches(config, dataset, ranks=ranks, epoch=epoch, nearest=nearest)
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
    points = mask_points(config, pixels.dataset, preprocessing)
    return EpochSamples(pixels, config.augment, fill, config.seed, epoch, points)


def mask_points(config: FinetuneConfig, dataset: Dataset, preprocessing: Preprocessing) -> NDArray[np.float32] | None:
    """Where `augment.mask` takes the face to be in images without landmarks, [5, 2]; None where it draws none there.

    Raises:
        ConfigError: that is not known of images of this shape.
    """
    augment = config.augment
    if not augment.mask or not POINTED_KINDS & set(augment.mask_kinds):
        return None
    if augment.mask_points is None and dataset.landmarks is not None and not np.isnan(dataset.landmarks).any():
        return None
    return template_points(preprocessing.height, preprocessing.width, augment.mask_points)


def confused_people(
    config: FinetuneConfig,
    learner: Learner,
    pixels: TrainingPixels,
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    ranks: int,
    epoch: int,
) -> NDArray[np.int64] | None:
    """Of `data.sampler: graph`, the identities that the matcher confuses most with each one: int64 [I, P - 1].

    None with other samplers. Every rank computes the same. The learner is left in the mode it was in.
    """
    model = matching_model(learner, config.model.output) if config.data.sampler == "graph" else None
    if model is None:
        return None
    identities = pixels.dataset.identities
    known = np.flatnonzero(identities != NOBODY)
    drawn = known[one_image_each(identities[known], np.random.default_rng([config.seed, epoch, 2]))]
    count = min(config.data.batch * ranks // config.data.images_per_identity, len(drawn)) - 1

    def read(numbers: NDArray[np.int64]) -> torch.Tensor:
        images = torch.from_numpy(np.stack([pixels.read_own(int(number)) for number in numbers]))
        return images_to_tensor(images, preprocessing, device, config.model.channels_last)

    training = learner.training
    learner.eval()
    try:
        return nearest_people(model, read, drawn, count)
    finally:
        learner.train(training)


def image_rounds(
    config: FinetuneConfig,
    images: TrainingPixels,
    preprocessing: Preprocessing,
    device: torch.device,
    *,
    epoch: int,
    steps: int,
    first: int = 0,
) -> Iterator[Batch]:
    """The batches of this process in an epoch of as many steps as are asked for, round after round.

    A search goes through the half of the images that alpha learns from as often as the other half needs.

    Args:
        config: The run, whose seed decides the order.
        images: What is gone through, again and again.
        preprocessing: Of the images.
        device: Where the batches go.
        epoch: From 0.
        steps: Of the epoch.
        first: The step to begin with.
    """
    rows: list[NDArray[np.int64]] = []
    while sum(map(len, rows)) < steps:
        following = epoch * _MOST_ROUNDS + len(rows)
        rows.append(epoch_batches(config, images.dataset, ranks=world_size(), epoch=following))
    plan = np.concatenate(rows)[:steps]
    samples = epoch_samples(config, images, preprocessing, epoch=epoch)
    columns = rank_share(config, plan, rank(), world_size())
    return iterate_batches(samples, plan, columns, config.data.workers, first=first, pin=device.type == "cuda")
