"""Drawn verification pairs: no identity weighs more than its share, none comes twice, and each is labelled right."""

import numpy as np
import pytest

from rtool.errors import DataError
from rtool.finetune.data.pair_drawing import draw_different_pairs, draw_pairs, draw_same_pairs
from rtool.finetune.evaluation.pairs.verification import measure_verification

SKEWED = np.repeat(np.arange(400), [300, 120, 60, *[8] * 37, *[3] * 100, *[2] * 110, *[1] * 150])
"""400 people as on LFW: few with many images, many with one."""


@pytest.mark.parametrize("identities", [np.repeat(np.arange(12), 5), np.arange(60) % 12], ids=["sorted", "mixed"])
def test_pairs_are_balanced_in_every_fold_and_none_is_drawn_twice(identities):
    pairs = draw_pairs(identities)
    assert pairs.shape == (240, 3)
    assert len(np.unique(pairs[:, :2], axis=0)) == 240
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert (pairs[:, 2] == (identities[pairs[:, 0]] == identities[pairs[:, 1]])).all()
    assert (pairs[:, 2].reshape(10, 24).sum(axis=1) == 12).all()
    assert (draw_pairs(identities) == pairs).all()
    assert (draw_pairs(identities, seed=1) != pairs).any()


@pytest.mark.parametrize("seed", range(3))
def test_every_identity_gives_at_most_its_share_of_pairs(seed):
    pairs = draw_pairs(SKEWED, seed=seed)
    same = SKEWED[pairs[pairs[:, 2] == 1, 0]]
    able = (np.bincount(SKEWED) > 1).sum()
    assert len(set(same)) == able
    assert np.bincount(same).max() <= np.ceil(len(same) / able)
    different = SKEWED[pairs[pairs[:, 2] == 0, :2]]
    assert np.bincount(different.ravel()).max() <= 2 * np.ceil(len(different) / 400)  # two per round of the circle


@pytest.mark.parametrize("person", [0, 1, 100, 390])
def test_one_person_whose_embedding_fails_moves_accuracy_by_no_more_than_three_in_all_people(person):
    rng = np.random.default_rng(person)
    embeddings = rng.normal(size=(400, 64))[SKEWED] + 0.8 * rng.normal(size=(len(SKEWED), 64))
    pairs = draw_pairs(SKEWED)
    before = measure_verification(embeddings.astype("f4"), SKEWED, pairs).accuracy
    embeddings[person == SKEWED] = rng.normal(size=((person == SKEWED).sum(), 64))
    after = measure_verification(embeddings.astype("f4"), SKEWED, pairs).accuracy
    assert abs(after - before) <= 3 / 400


@pytest.mark.parametrize("counts", [[5, 5, 5], [1, 2, 7], [4, 6, 9, 3], [2, 2]])
def test_all_pairs_of_few_images_come_once_if_all_are_wanted(counts):
    """Of equal identities; an identity with more images stops at its share."""
    identities = np.repeat(np.arange(len(counts)), counts)
    same = draw_same_pairs(identities, 10**6, np.random.default_rng(0), least=10**6)
    assert {tuple(pair) for pair in same} == {
        (a, b) for a in range(len(identities)) for b in range(a + 1, len(identities)) if identities[a] == identities[b]
    }
    different = draw_different_pairs(identities, 10**6, np.random.default_rng(0))
    assert len(np.unique(different, axis=0)) == len(different)
    assert (identities[different[:, 0]] != identities[different[:, 1]]).all()
    if len(set(counts)) == 1:
        assert len(different) == len(counts) * (len(counts) - 1) // 2 * counts[0] ** 2


def test_images_of_nobody_are_in_no_pair():
    identities = np.concatenate([np.full(50, -1), np.repeat(np.arange(12), 4)])
    assert (identities[draw_pairs(identities)[:, :2]] >= 0).all()


def test_too_few_pairs_for_the_folds_are_an_error():
    with pytest.raises(DataError, match="2 pairs of one identity and 4 of two; at least 10 of each"):
        draw_pairs(np.array([0, 0, 1, 1]))


def test_pairs_of_a_million_images_are_drawn_without_listing_them():
    identities = np.arange(1_000_000) % 50_000
    pairs = draw_pairs(identities)
    assert pairs.shape == (6000, 3)
    assert (pairs[:, 2] == (identities[pairs[:, 0]] == identities[pairs[:, 1]])).all()
