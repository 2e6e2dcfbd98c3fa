"""RandAugment, AugMix and random patch: their rules, and the same sample whoever makes it."""

from types import SimpleNamespace

import numpy as np
import pytest

from rtool.finetune.config.config import AugmentConfig
from rtool.finetune.data.augment import aug_mix as aug_mix_module
from rtool.finetune.data.augment import rand_augment as rand_augment_module
from rtool.finetune.data.augment.aug_mix import aug_mix
from rtool.finetune.data.augment.image_operations import OPERATIONS
from rtool.finetune.data.augment.rand_augment import rand_augment
from rtool.finetune.data.augment.random_patch import paste_patch
from rtool.finetune.data.augmentation import photometric
from rtool.finetune.data.dataset import ArrayImages, Dataset
from rtool.finetune.data.loading import EpochSamples, TrainingPixels, iterate_batches

FILL = np.array([7, 8, 9], dtype=np.uint8)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)


def test_rand_augment_draws_each_operation_alike_at_its_share_of_the_range(image, monkeypatch):
    drawn = []

    def record(name, given, amount, fill):
        drawn.append((name, amount))
        return given

    monkeypatch.setattr(rand_augment_module, "apply_operation", record)
    rng = np.random.default_rng(1)
    for _ in range(2000):
        rand_augment(image, FILL, rng, operations=3, magnitude=15)
    assert len(drawn) == 6000
    counts = {name: sum(each == name for each, _ in drawn) for name in OPERATIONS}
    assert all(abs(count - 6000 / 14) < 5 * np.sqrt(6000 / 14) for count in counts.values())  # five deviations
    amounts = {name: sorted({amount for each, amount in drawn if each == name}) for name in OPERATIONS}
    assert amounts["rotate"] == [-15.0, 15.0]
    assert amounts["shear_x"] == [-0.15, 0.15]
    assert amounts["brightness"] == [-0.45, 0.45]
    assert amounts["posterize"] == [2.0]
    assert amounts["solarize"] == [128.0]
    assert amounts["translate_y"] == pytest.approx([-75 / 331, 75 / 331])


def test_aug_mix_is_the_papers_mixture(image, monkeypatch):
    """Every operation gives white: x (1 - m) + 255 m, whatever the weights; m is uniform."""
    lengths = []

    def whiten(_name, given, _amount, _fill):
        lengths[-1] += 1
        return np.full_like(given, 255)

    monkeypatch.setattr(aug_mix_module, "apply_operation", whiten)
    shares, black = [], np.zeros_like(image)
    for seed in range(500):
        lengths.append(0)
        mixed = aug_mix(black, FILL, np.random.default_rng(seed))
        assert mixed.min() == mixed.max()
        shares.append(mixed[0, 0, 0] / 255)
    assert np.quantile(shares, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.08)
    assert (min(lengths), max(lengths)) == (3, 9)  # three chains of one to three
    assert np.mean(lengths) == pytest.approx(6, abs=0.2)


def test_aug_mix_of_a_small_severity_changes_less(image):
    def change(severity):
        rngs = [np.random.default_rng(seed) for seed in range(40)]
        return np.mean([np.abs(aug_mix(image, FILL, rng, severity=severity).astype(int) - image) for rng in rngs])

    assert change(0.5) < change(10.0)


def test_a_patch_is_one_rectangle_of_the_other_image():
    image, other = np.zeros((40, 20, 3), dtype=np.uint8), np.full((40, 20, 3), 200, dtype=np.uint8)
    areas = []
    for seed in range(300):
        pasted = paste_patch(image, other, np.full(3, 200, dtype=np.uint8), np.random.default_rng(seed))
        changed = (pasted != 0).all(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        areas.append(changed.mean())
    assert 0.005 < min(areas) < max(areas) < 0.52
    assert not image.any()


def test_jitter_of_the_default_strengths_is_as_before(image):
    """Factors from 0.5 to 1.5, drawn as three numbers at once: dated runs keep their images."""
    got = photometric(image, FILL, np.random.default_rng(3))
    brightness, contrast, saturation = np.random.default_rng(3).uniform(0.5, 1.5, 3).astype(np.float32)
    values = image * brightness
    values = (values - values.mean()) * contrast + values.mean()
    grey = (values @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
    expected = np.clip((values - grey) * saturation + grey + 0.5, 0, 255).astype(np.uint8)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(("strengths", "kept"), [((0.0, 0.0, 0.0), True), ((0.4, 0.0, 0.0), False)])
def test_jitter_follows_its_strengths(image, strengths, kept):
    changed = photometric(image, FILL, np.random.default_rng(3), strengths=strengths)
    assert np.array_equal(changed, image) == kept
    if not kept:
        ratio = changed.astype(float)[image < 150] / np.maximum(image[image < 150], 1)
        assert 0.6 <= np.median(ratio) <= 1.4


EVERYTHING = AugmentConfig(
    random_patch=0.5, photometric=0.5, hue=0.2, rand_augment=0.5, aug_mix=0.5, erasing=0.2, pad_crop=2
)


def test_samples_are_the_same_for_any_number_of_workers_and_from_any_step():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (12, 16, 8, 3), dtype=np.uint8)
    dataset = Dataset(
        "d", ArrayImages(values), np.arange(12), np.zeros(12, dtype=np.int64), [f"{n}" for n in range(12)]
    )
    samples = EpochSamples(TrainingPixels(dataset, np.asarray, values), EVERYTHING, (1.0, 2.0, 3.0), 5, 2)
    plan = rng.permutation(12).reshape(3, 4)
    whole = [batch.pixels.numpy() for batch in iterate_batches(samples, plan, slice(None), workers=0)]
    by_workers = [batch.pixels.numpy() for batch in iterate_batches(samples, plan, slice(None), workers=2)]
    later = [batch.pixels.numpy() for batch in iterate_batches(samples, plan, slice(None), workers=0, first=2)]
    second = [batch.pixels.numpy() for batch in iterate_batches(samples, plan, slice(2, 4), workers=0)]
    assert all(np.array_equal(a, b) for a, b in zip(whole, by_workers, strict=True))
    assert np.array_equal(whole[2], later[0])
    assert all(np.array_equal(a[2:], b) for a, b in zip(whole, second, strict=True))
    assert not np.array_equal(whole[0], values[plan[0]])
    other_epoch = SimpleNamespace(**vars(samples))
    other_epoch.epoch = 3
    changed = EpochSamples(**vars(other_epoch))
    assert not np.array_equal(whole[0], next(iterate_batches(changed, plan, slice(None), workers=0)).pixels.numpy())
