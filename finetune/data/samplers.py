"""Which images make up each batch of an epoch, planned from labels alone and the same on every rank.

A plan is an array int64 [batches, global batch] of image numbers. Rank r trains on the r-th part of each row, so one
process with batch B and two with B/2 see the same images, and a resumed run continues in the middle of the same plan.
Batches of P identities with K images each: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person
Re-Identification", arXiv:1703.07737.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .dataset import UNKNOWN_CAMERA

__all__ = ["Sampler", "plan_epoch", "plan_graph", "plan_pk", "plan_random", "rank_columns"]

Indices = NDArray[np.int64]
Sampler = Literal["random", "pk", "pk_cameras", "graph"]


def plan_epoch(
    sampler: Sampler,
    identities: Indices,
    cameras: Indices,
    *,
    batch: int,
    images_per_identity: int,
    ranks: int,
    seed: int,
    epoch: int,
    nearest: Indices | None = None,
) -> Indices:
    """The plan of one epoch for `ranks` processes with `batch` images each: int64 [batches, ranks * batch].

    Args:
        sampler: "random", "pk", "pk_cameras" (images of an identity from different cameras), or "graph".
        identities: int64 [N].
        cameras: int64 [N]; used by "pk_cameras" alone.
        batch: Images per batch on each process.
        images_per_identity: K of the pk samplers, of which `batch` is a multiple.
        ranks: Processes.
        seed: Seeds the order, with `epoch`.
        epoch: Number of the epoch, from 0.
        nearest: Of "graph", the identities most alike each one, as `plan_graph` takes them; None draws some, for a plan
            of as many batches without a network.

    Raises:
        DataError: the data set cannot fill one batch, a pk batch has one identity, or cameras are unknown.
    """
    rng = np.random.default_rng([seed, epoch])
    if sampler == "random":
        return plan_random(len(identities), batch * ranks, rng)
    if batch % images_per_identity:
        raise DataError(
            f"data.batch {batch} is not a multiple of data.images_per_identity {images_per_identity}, as "
            f"{'graph' if sampler == 'graph' else 'pk'} needs"
        )
    identities_per_batch = batch * ranks // images_per_identity
    if identities_per_batch < 2:
        raise DataError(
            f"data.batch {batch} with data.images_per_identity {images_per_identity} makes batches of one identity, "
            f"in which no two people differ; set data.batch to {2 * images_per_identity} or more"
        )
    people = {"identities_per_batch": identities_per_batch, "images_per_identity": images_per_identity}
    if sampler == "graph":
        return plan_graph(identities, nearest, **people, rng=rng)
    unknown = int((cameras == UNKNOWN_CAMERA).sum())
    if sampler == "pk_cameras" and unknown:
        raise DataError(
            f"data.sampler pk_cameras: the cameras of {unknown} of {len(cameras)} training images are unknown; use "
            "data.sampler=pk"
        )
    return plan_pk(identities, cameras if sampler == "pk_cameras" else None, **people, rng=rng)


def rank_columns(plan: Indices, rank: int, ranks: int) -> slice:
    """The columns of a plan [steps, global batch] whose images process `rank` of `ranks` trains on."""
    width = plan.shape[1] // ranks
    return slice(rank * width, (rank + 1) * width)


def plan_random(count: int, batch: int, rng: np.random.Generator) -> Indices:
    """Every image at most once, in random order: int64 [batches, batch]; a rest that does not fill a batch is left out.

    Raises:
        DataError: fewer images than a batch.
    """
    steps = count // batch
    if steps == 0:
        raise DataError(f"{count} training images do not fill one batch of {batch}; lower data.batch")
    return rng.permutation(count)[: steps * batch].reshape(steps, batch)


def plan_pk(
    identities: Indices,
    cameras: Indices | None,
    *,
    identities_per_batch: int,
    images_per_identity: int,
    rng: np.random.Generator,
) -> Indices:
    """Batches of P identities with K images each, int64 [batches, P * K]; an image occurs about once per epoch.

    The images of an identity are shuffled (with `cameras`: dealt camera by camera) and cut into groups of K; a short
    group is filled with other images of the identity. Each batch is made of the P identities with the most groups left,
    so that no identity is left over alone. Identities with one image make no pair and are left out.

    Raises:
        DataError: fewer than P identities have two images.
    """
    groups = _cut_into_groups(identities, cameras, images_per_identity, rng)
    if len(groups) < identities_per_batch:
        raise DataError(
            f"pk batches of {identities_per_batch} identities with {images_per_identity} images each need that many "
            f"identities with at least 2 images, got {len(groups)}; lower data.batch, or use data.sampler=random"
        )
    left = np.array([len(group) for group in groups], dtype=np.int64)
    rows = []
    while np.count_nonzero(left) >= identities_per_batch:
        order = np.argsort(-(left + rng.random(len(left))))[:identities_per_batch]
        left[order] -= 1
        rows.append(np.concatenate([groups[identity][left[identity]] for identity in rng.permutation(order)]))
    plan = np.stack(rows)
    return plan[rng.permutation(len(plan))]


def plan_graph(
    identities: Indices,
    nearest: Indices | None,
    *,
    identities_per_batch: int,
    images_per_identity: int,
    rng: np.random.Generator,
) -> Indices:
    """One batch per identity: it and its P - 1 nearest, K images each, int64 [I, P * K], in random order.

    Liao and Shao, arXiv:2104.01546. An identity with fewer than K images gives some of them twice.

    Args:
        identities: int64 [N], contiguous from 0, each with two images or more.
        nearest: int64 [I, P - 1]; None draws others.
        identities_per_batch: P.
        images_per_identity: K.
        rng: Draws order and images.

    Raises:
        DataError: fewer than P identities.
    """
    order = np.argsort(identities, kind="stable")
    images = np.split(order, np.flatnonzero(np.diff(identities[order])) + 1)
    if len(images) < identities_per_batch:
        raise DataError(
            f"graph batches of {identities_per_batch} identities need that many, got {len(images)}; lower data.batch, "
            "or raise data.images_per_identity"
        )
    rows = []
    for own in rng.permutation(len(images)):
        others = rng.permutation(np.delete(np.arange(len(images)), own)) if nearest is None else nearest[own]
        people = [own, *others[: identities_per_batch - 1]]
        rows.append(np.concatenate([_drawn(images[each], images_per_identity, rng) for each in people]))
    return np.stack(rows)


def _drawn(images: Indices, count: int, rng: np.random.Generator) -> Indices:
    """`count` images, each as often as any other, or once more."""
    return np.concatenate([rng.permutation(images) for _ in range(-(-count // len(images)))])[:count]


def _cut_into_groups(
    identities: Indices, cameras: Indices | None, size: int, rng: np.random.Generator
) -> list[Indices]:
    """For each identity with two images or more, its images as [groups, size]."""
    order = np.argsort(identities, kind="stable")
    bounds = np.flatnonzero(np.diff(identities[order])) + 1
    groups = []
    for images in np.split(order, bounds):
        if len(images) < 2:
            continue
        images = rng.permutation(images)
        if cameras is not None:
            images = _deal_by_camera(images, cameras[images])
        missing = -len(images) % size
        groups.append(np.concatenate([images, np.resize(images, missing)]).reshape(-1, size))
    return groups


def _deal_by_camera(images: Indices, cameras: Indices) -> Indices:
    """Reorder so that neighbours come from different cameras where possible."""
    turn = np.zeros(len(images), dtype=np.int64)
    for camera in np.unique(cameras):
        seen = cameras == camera
        turn[seen] = np.arange(np.count_nonzero(seen))
    return images[np.argsort(turn, kind="stable")]
