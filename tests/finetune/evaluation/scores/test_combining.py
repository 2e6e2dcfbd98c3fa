"""Thresholds at midpoints and combined scores, beside loops written from their definition."""

import itertools

import numpy as np
import pytest

from rtool.errors import DataError
from rtool.finetune.evaluation.scores.combining import Combination, combine_scores
from rtool.finetune.evaluation.scores.midpoint_folds import (
    best_midpoint,
    consecutive_folds,
    interleaved_folds,
    midpoint_decisions,
    true_accepts_by_fold,
)


def drawn(count=200, seed=0, apart=1.0):
    rng = np.random.default_rng(seed)
    is_same = rng.random(count) < 0.5
    return rng.normal(size=count) + apart * is_same, is_same


def slow_midpoint(scores, is_same):
    ranked = sorted(scores)
    candidates = [(one + other) / 2 for one, other in itertools.pairwise(ranked)]
    shares = [np.mean((scores > each) == is_same) for each in candidates]
    return candidates[int(np.argmax(shares))], max(shares)


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_is_the_first_of_the_best_midpoints(seed):
    scores, is_same = drawn(60, seed)
    assert best_midpoint(scores, is_same) == pytest.approx(slow_midpoint(scores, is_same), abs=1e-12)
    rounded = np.round(scores)  # with equal scores
    assert best_midpoint(rounded, is_same) == pytest.approx(slow_midpoint(rounded, is_same), abs=1e-12)


def test_each_fold_is_decided_by_the_nine_others():
    scores, is_same = drawn()
    accepted = midpoint_decisions(scores, is_same, consecutive_folds(200))
    for fold in np.array_split(np.arange(200), 10):
        rest = np.setdiff1d(np.arange(200), fold)
        threshold, _ = slow_midpoint(scores[rest], is_same[rest])
        assert (accepted[fold] == (scores[fold] > threshold)).all()
    assert 0.6 < np.mean(accepted == is_same) < 0.8  # Phi(0.5) = 0.69


def test_accepts_at_a_false_accept_rate_are_of_the_other_folds_threshold():
    scores, is_same = drawn(1000)
    rates = true_accepts_by_fold(scores, is_same, consecutive_folds(1000), 0.01)
    for number, fold in enumerate(np.array_split(np.arange(1000), 10)):
        rest = np.setdiff1d(np.arange(1000), fold)
        different = np.sort(scores[rest][~is_same[rest]])[::-1]
        threshold = different[int(0.01 * len(different))]
        assert rates[number] == pytest.approx(np.mean(scores[fold][is_same[fold]] > threshold))


def test_folds_are_of_all_pairs_once():
    for folds in (consecutive_folds(57), interleaved_folds(57)):
        assert sorted(np.concatenate(folds).tolist()) == list(range(57))
        assert len(folds) == 10
    with pytest.raises(DataError, match="9 pairs"):
        consecutive_folds(9)


def test_a_combined_score_standardises_by_the_nine_other_folds():
    embedding, is_same = drawn(seed=1)
    matcher = 30 * drawn(seed=2)[0] + 40 * is_same
    weights = Combination(embedding=0.7, matcher=0.3)
    found = combine_scores(embedding, matcher, is_same, consecutive_folds(200), weights)
    for fold in np.array_split(np.arange(200), 10):
        rest = np.setdiff1d(np.arange(200), fold)
        parts = [(each - each[rest].mean()) / each[rest].std() for each in (embedding, matcher)]
        expected = 0.7 * parts[0] + 0.3 * parts[1]
        np.testing.assert_allclose(found.scores[fold], expected[fold], rtol=1e-12)
        threshold, _ = slow_midpoint(expected[rest], is_same[rest])
        assert (found.accepted[fold] == (expected[fold] > threshold)).all()
    assert not found.fallback.any()
    accuracy = {
        name: np.mean(midpoint_decisions(each, is_same, consecutive_folds(200)) == is_same)
        for name, each in (("embedding", embedding), ("matcher", matcher))
    }
    assert np.mean(found.accepted == is_same) > max(accuracy.values())


def test_a_score_of_a_pair_depends_on_no_other_pair_of_its_fold():
    embedding, is_same = drawn(seed=1)
    matcher, _ = drawn(seed=2)
    folds = consecutive_folds(200)
    before = combine_scores(embedding, matcher, is_same, folds, Combination()).scores
    embedding[1], matcher[1] = 1e6, -1e6
    after = combine_scores(embedding, matcher, is_same, folds, Combination()).scores
    np.testing.assert_array_equal(np.delete(before[:20], 1), np.delete(after[:20], 1))


@pytest.mark.parametrize("kind", ["inverted", "constant"])
def test_a_matcher_at_chance_falls_back_and_says_so(kind):
    embedding, is_same = drawn(seed=1)
    matcher = -drawn(seed=1)[0] if kind == "inverted" else np.full(200, 3.0)
    folds = consecutive_folds(200)
    found = combine_scores(embedding, matcher, is_same, folds, Combination())
    assert found.fallback.all()
    assert (found.weights == (0.8, 0.2)).all()
    kept = combine_scores(embedding, matcher, is_same, folds, Combination(fallback=None))
    assert kept.fallback.all()
    assert (kept.weights == (0.5, 0.5)).all()
    assert np.isfinite(found.scores).all()


def test_fitted_weights_are_those_of_a_logistic_regression():
    embedding, is_same = drawn(400, seed=1, apart=2.0)
    matcher = drawn(400, seed=2)[0] + 0.5 * is_same
    folds = consecutive_folds(400)
    found = combine_scores(embedding, matcher, is_same, folds, Combination(fitted=True))
    rest = np.arange(40, 400)
    inputs = np.stack([(each - each[rest].mean()) / each[rest].std() for each in (embedding, matcher)], axis=1)[rest]
    weights, bias, sign = np.zeros(2), 0.0, np.where(is_same[rest], 1.0, -1.0)
    for _ in range(20_000):  # gradient descent on the penalised loss
        pull = -sign / (1 + np.exp(sign * (inputs @ weights + bias)))
        weights -= 0.005 * (inputs.T @ pull + weights)
        bias -= 0.005 * pull.sum()
    np.testing.assert_allclose(found.weights[0], weights, atol=1e-6)
    assert (found.weights[:, 0] > found.weights[:, 1]).all()


def test_separable_pairs_keep_finite_weights():
    is_same = np.arange(100) % 2 == 0
    scores = np.where(is_same, 1.0, -1.0)
    found = combine_scores(scores, scores, is_same, consecutive_folds(100), Combination(fitted=True))
    assert np.isfinite(found.weights).all()
    assert (found.accepted == is_same).all()
