"""The threshold from the data alone."""

import numpy as np
import pytest

from rtool.serving.gallery.people.threshold import automatic_threshold, equal_error, otsu
from rtool.serving.gallery.tracks.vectors import TrackVectors


@pytest.mark.parametrize("seed", range(3))
def test_both_rates_are_equal_at_the_threshold_as_on_scikit_learns_curve(seed: int):
    draw = np.random.default_rng(seed)
    same, different = draw.normal(0.8, 0.1, 400), draw.normal(0.4, 0.15, 900)
    value, rate = equal_error(same, different)
    missed, wrong = np.mean(same < value), np.mean(different >= value)
    assert abs(missed - wrong) <= 1 / 400 + 1e-12
    from sklearn.metrics import roc_curve  # not above: collecting the tests would load it

    far, tar, _ = roc_curve(np.r_[np.ones(400), np.zeros(900)], np.r_[same, different], drop_intermediate=False)
    at = np.argmin(np.abs(far - (1 - tar)))
    assert rate == pytest.approx((far[at] + 1 - tar[at]) / 2, abs=1 / 400)


def test_otsu_maximises_the_variance_between_the_classes():
    draw = np.random.default_rng(0)
    values = np.r_[draw.normal(0.2, 0.05, 300), draw.normal(0.8, 0.05, 100)]
    value = otsu(values)

    def within(threshold: float) -> float:
        return sum(part.var() * len(part) for part in (values[values < threshold], values[values >= threshold]))

    assert within(value) <= min(within(t) for t in np.linspace(0.1, 0.9, 200)) + 1e-9


def vectors(tracks: int, halved: int) -> TrackVectors:
    halves = np.zeros((halved, 2, 3), dtype=np.float32)
    halves[:, :, 0] = 1
    return TrackVectors(np.zeros((tracks, 3), dtype=np.float32), np.arange(halved), halves, "none")


def test_evidence_needs_thirty_pairs_of_each_kind():
    draw = np.random.default_rng(1)
    compared = np.abs(draw.normal(size=(40, 3))).astype(np.float32)
    compared /= np.linalg.norm(compared, axis=1, keepdims=True)
    pairs = np.array([(a, a + 1) for a in range(39)])
    found = automatic_threshold(compared, vectors(40, 30), pairs[:30])
    assert (found.source, found.same_pairs, found.different_pairs) == ("evidence", 30, 30)
    different = np.einsum("pd,pd->p", compared[pairs[:30, 0]], compared[pairs[:30, 1]])
    assert different.max() < found.value < 1
    assert automatic_threshold(compared, vectors(40, 29), pairs).source == "otsu"
    assert automatic_threshold(compared, vectors(40, 30), pairs[:29]).source == "otsu"
    assert automatic_threshold(compared[:9], vectors(9, 9), pairs[:3]).source == "default"
