"""Each identity's images are shared between weights and alpha, and no image is in both parts."""

import numpy as np
import pytest

from rtool.errors import DataError
from rtool.finetune.data.dataset import ArrayImages, Dataset
from rtool.finetune.data.loading import TrainingPixels
from rtool.finetune.data.selection.halves import split_inside_identities, training_halves


def people(counts: list[int]) -> Dataset:
    identities = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(3).shuffle(identities)
    pixels = np.arange(len(identities), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), dtype=np.uint8)
    cameras = np.zeros(len(identities), dtype=np.int64)
    names = [f"image{number}" for number in range(len(identities))]
    return Dataset("people", ArrayImages(pixels), identities.astype(np.int64), cameras, names)


@pytest.mark.parametrize(("share", "expected"), [(0.5, [1, 2, 2, 3]), (0.25, [1, 1, 1, 2]), (0.99, [1, 2, 3, 5])])
def test_each_identity_is_split_and_no_image_is_in_both_parts(share, expected):
    dataset = people([2, 3, 4, 6])

    weights, alpha = split_inside_identities(dataset, share, seed=5)

    assert np.bincount(dataset.identities[weights], minlength=4).tolist() == expected
    assert np.array_equal(np.sort(np.concatenate([weights, alpha])), np.arange(15))
    assert np.bincount(dataset.identities[alpha], minlength=4).min() >= 1


def test_the_split_depends_on_the_seed_alone():
    dataset = people([6] * 8)
    first, again, other = (split_inside_identities(dataset, 0.5, seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_both_parts_number_identities_alike():
    dataset = people([2, 3, 4, 6])
    pixels = TrainingPixels(dataset, lambda image: np.asarray(image), dataset.images.pixels)

    for part in training_halves(pixels, 0.5, seed=0):
        shown = part.values[:, 0, 0, 0].astype(int)  # each image's pixels are its number
        assert np.array_equal(part.dataset.identities, dataset.identities[shown])
        assert [part.dataset.names[i] for i in range(len(shown))] == [f"image{number}" for number in shown]


def test_an_identity_of_one_image_cannot_be_split():
    with pytest.raises(DataError, match=r"1 of 3 identities have one image \(image\d+\).*data.min_images=2"):
        split_inside_identities(people([2, 1, 4]), 0.5, seed=0)
