"""Verification pairs drawn from identities, so that no identity weighs more than its share.

Same pairs: round after round, each identity that has another pair of images gives one, in a random order. It stops at
the wanted number, or before an identity would give more than the mean over all identities with two images, rounded up.
Of LFW, 1,680 people give 1 to 3 pairs each; drawn from all pairs of images, 61 % would be of one person.

Different pairs: identities stand in a circle in random order, and each is paired with its neighbour at distance 1, then
at the next distance, so that all occur equally often; with few identities, further rounds take other images of each
pair of identities, under the same bound.

Both depend on the labels and the seed alone. The images of an identity are taken in turn, in a random order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError

__all__ = ["draw_different_pairs", "draw_pairs", "draw_same_pairs"]

Indices = NDArray[np.int64]


def draw_pairs(identities: Indices, *, folds: int = 10, most: int = 6000, seed: int = 0) -> Indices:
    """Balanced verification pairs int64 [P, 3] (image, image, 1 for the same identity), laid out fold by fold.

    Args:
        identities: int64 [N]; images with a negative one belong to nobody and are in no pair.
        folds: Number of folds; each has as many pairs of one identity as of two.
        most: Largest number of pairs.
        seed: Seeds the draw.

    Raises:
        DataError: fewer pairs of one identity, or of two, than folds.
    """
    rng = np.random.default_rng(seed)
    same = draw_same_pairs(identities, most // 2, rng, least=folds)
    different = draw_different_pairs(identities, most // 2, rng)
    per_fold = min(len(same), len(different)) // folds
    if per_fold == 0:
        raise DataError(
            f"verification: {len(same)} pairs of one identity and {len(different)} of two; at least {folds} of each "
            f"are needed for {folds} folds"
        )
    drawn = [rng.permutation(pairs[: per_fold * folds]).reshape(folds, per_fold, 2) for pairs in (same, different)]
    flags = np.repeat([[1, 0]], per_fold, axis=1).repeat(folds, axis=0)
    return np.concatenate([np.concatenate(drawn, axis=1), flags[..., None]], axis=2).reshape(-1, 3)


def draw_same_pairs(identities: Indices, most: int, rng: np.random.Generator, *, least: int = 1) -> Indices:
    """At most `most` pairs of images of one identity, int64 [n, 2], each identity at most its share.

    Args:
        identities: int64 [N]; negative ones are left out.
        most: Largest number of pairs.
        rng: Draws.
        least: So many are drawn if they exist, even if an identity then gives more than its share.
    """
    images, starts, counts = _images_by_identity(identities, rng)
    rounds = _bounded_rounds(counts * (counts - 1) // 2, most, least)
    drawn = []
    for number, given in enumerate(rounds):
        given = rng.permutation(given)
        # Neighbours in a circle of n images, then those two apart, ...: every pair once.
        size = counts[given]
        place, distance = number % size, number // size + 1
        drawn.append(_pairs_of(images, starts[given], starts[given], place, (place + distance) % size))
    return _joined(drawn, most)


def draw_different_pairs(identities: Indices, most: int, rng: np.random.Generator) -> Indices:
    """At most `most` pairs of images of two identities, int64 [n, 2], each pair of identities at most its share.

    Args:
        identities: int64 [N]; negative ones are left out.
        most: Largest number of pairs.
        rng: Draws.
    """
    images, starts, counts = _images_by_identity(identities, rng)
    first, second = _circle(len(counts), most, rng)
    drawn = []
    for number, given in enumerate(_bounded_rounds(counts[first] * counts[second], most, 1)):
        one, other = first[given], second[given]
        # Both images change from round to round, and every pair of images comes once.
        cycle = np.lcm(counts[one], counts[other])
        place = number % counts[one]
        drawn.append(_pairs_of(images, starts[one], starts[other], place, (number + number // cycle) % counts[other]))
    return _joined(drawn, most)


def _images_by_identity(identities: Indices, rng: np.random.Generator) -> tuple[Indices, Indices, Indices]:
    """Image numbers sorted by identity and shuffled within each; where each identity starts, and its count."""
    known = np.flatnonzero(identities >= 0)
    images = known[np.lexsort([rng.random(len(known)), identities[known]])]
    _, starts, counts = np.unique(identities[images], return_index=True, return_counts=True)
    return images, starts, counts


def _circle(people: int, most: int, rng: np.random.Generator) -> tuple[Indices, Indices]:
    """At most `most` pairs of 0 .. people - 1: neighbours of a random circle first, then those two apart, ..."""
    circle = rng.permutation(people)
    pairs: list[NDArray[np.int64]] = [np.zeros((0, 2), dtype=np.int64)]
    for distance in range(1, people // 2 + 1):
        if sum(map(len, pairs)) >= most:
            break
        # At half of an even circle each pair would come twice.
        count = people // 2 if 2 * distance == people else people
        pairs.append(np.stack([circle[:count], np.roll(circle, -distance)[:count]], axis=1))
    first, second = np.concatenate(pairs)[:most].T
    return first, second


def _bounded_rounds(available: Indices, most: int, least: int) -> Iterator[Indices]:
    """Round by round, the positions in `available` that give one more; each has so many to give.

    Ends with `most` given in all, or where a further round would take some beyond the mean over all that have any,
    rounded up, unless fewer than `least` were given.
    """
    givers = int((available > 0).sum())
    total, number = 0, 0
    while total < most:
        given = np.flatnonzero(available > number)
        share = math.ceil(min(total + len(given), most) / max(givers, 1))
        if not len(given) or (number >= share and total >= least):
            return
        total += len(given)
        number += 1
        yield given


def _pairs_of(images: Indices, one: Indices, other: Indices, place: Indices, place_in_other: Indices) -> Indices:
    return np.sort(np.stack([images[one + place], images[other + place_in_other]], axis=1), axis=1)


def _joined(drawn: list[Indices], most: int) -> Indices:
    return np.concatenate([np.zeros((0, 2), dtype=np.int64), *drawn])[:most]
