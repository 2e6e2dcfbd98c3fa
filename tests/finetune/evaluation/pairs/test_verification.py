"""10-fold accuracy and TAR@FAR against the protocol written out with loops."""

from itertools import pairwise

import numpy as np
import pytest

from rtool.errors import GateError
from rtool.finetune.data.pair_drawing import draw_pairs
from rtool.finetune.evaluation.pairs.folds import fold_accuracies, fold_true_accepts
from rtool.finetune.evaluation.pairs.receiver_curve import ReceiverCurve
from rtool.finetune.evaluation.pairs.true_accepts import ScoredPairs, true_accept_intervals
from rtool.finetune.evaluation.pairs.verification import (
    measurable_metrics,
    measure_verification,
    scored_pairs,
)


def accuracies_by_the_protocol(distances, same):
    from sklearn.model_selection import KFold

    result = []
    for train, test in KFold(10, shuffle=False).split(distances):
        best_accuracy, best = -1.0, 0.0
        for threshold in np.arange(0, 4, 0.01):
            accuracy = np.mean((distances[train] < threshold) == same[train])
            if accuracy > best_accuracy:
                best_accuracy, best = accuracy, threshold
        result.append(np.mean((distances[test] < best) == same[test]))
    return np.array(result)


def test_fold_accuracies_agree_with_the_protocol_written_out():
    rng = np.random.default_rng(1)
    same = np.arange(203) % 2 == 0
    distances = np.where(same, rng.uniform(0, 1.6, 203), rng.uniform(0.8, 3.5, 203)).astype("f4")
    np.testing.assert_allclose(fold_accuracies(distances, same), accuracies_by_the_protocol(distances, same))


def test_tar_is_the_highest_whose_far_does_not_exceed_the_target():
    scores = np.array([0.9, 0.8, 0.7, 0.3, 0.95, 0.75, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    same = np.arange(14) < 4
    # different pairs sorted: .95 .75 .2 .1 ...; 10 % of 10 lets one through, so the threshold falls to .75
    curve = ReceiverCurve(scores, same)
    assert curve.true_accept_rate(0.1) == pytest.approx(2 / 4)
    assert curve.true_accept_rate(0.2) == pytest.approx(4 / 4)
    assert curve.true_accept_rate(0.0) == pytest.approx(0 / 4)


@pytest.mark.parametrize("seed", range(3, 9))
def test_val_at_far_agrees_with_the_protocol_written_out(seed):
    rng = np.random.default_rng(seed)
    same = np.arange(400) % 2 == 0
    distances = np.where(same, rng.uniform(0, 1.6, 400), rng.uniform(0.3, 3.5, 400)).astype("f4")
    for far in (1e-1, 2e-2, 1e-3):
        expected = []
        for fold in range(10):
            test = np.arange(fold * 40, fold * 40 + 40)
            train = np.setdiff1d(np.arange(400), test)
            thresholds, different = np.arange(0, 4, 0.001), distances[train][~same[train]]
            rates = np.mean(different[None] < thresholds[:, None], axis=1)
            at = next(i for i, rate in enumerate(rates) if rate >= far)
            share = (far - rates[at - 1]) / (rates[at] - rates[at - 1])
            threshold = thresholds[at - 1] + share * 0.001
            expected.append(np.mean(distances[test][same[test]] < threshold))
        np.testing.assert_allclose(fold_true_accepts(distances, same, far), expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("spread", [0.0, 1e-4])
def test_a_network_that_maps_all_images_to_one_point_verifies_nothing(seed, spread):
    """Their squared distances are rounding, of either sign, or far below the step between two thresholds."""
    rng = np.random.default_rng(seed)
    identities = np.repeat(np.arange(20), 10)
    embeddings = (rng.normal(size=(1, 64)) + spread * rng.normal(size=(200, 64))).astype("f4")
    assert measure_verification(embeddings, identities, draw_pairs(identities)).val_at_far_1e3 < 0.1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("least", [-1e-7, 0.0, 1e-7])
def test_different_pairs_that_are_alike_are_not_accepted_beyond_the_false_accept_rate(least):
    """100 of 1000 different pairs are nearer than any same pair, so FAR 0.001 accepts nothing, and FAR 0.2 much."""
    rng = np.random.default_rng(0)
    same = rng.permutation(2000) < 1000
    distances = np.empty(2000)
    distances[same] = rng.permutation(np.concatenate([np.full(500, 5e-6), np.linspace(0.1, 0.2, 500)]))
    distances[~same] = rng.permutation(np.concatenate([np.full(100, least), np.linspace(0.3, 3, 900)]))
    assert fold_true_accepts(distances, same, 1e-3).max() == 0
    assert fold_true_accepts(distances, same, 0.2).mean() > 0.9


def test_the_roc_rises_to_one_and_holds_the_single_rates():
    rng = np.random.default_rng(3)
    same = np.arange(500) < 200
    scores = np.where(same, rng.normal(1, 1, 500), rng.normal(0, 1, 500)).astype("f4")
    fars, tars = np.array(ReceiverCurve(scores, same).points()).T
    assert fars[0] == pytest.approx(1e-3)  # 300 different pairs make one in 300 at best
    assert (fars[-1], tars[-1]) == (1.0, 1.0)
    assert (np.diff(fars) > 0).all()
    assert (np.diff(tars) >= 0).all()
    for far in (1e-2, 1e-1):
        allowed = sorted(scores[~same], reverse=True)[int(far * 300)]
        assert tars[np.argmin(abs(fars - far))] == pytest.approx(np.mean(scores[same] > allowed))


@pytest.mark.parametrize("decimals", [0, 1, 7])
def test_rates_and_areas_are_those_of_scikit_learn(decimals):
    """With few decimals most scores are equal, of both kinds."""
    from sklearn.metrics import auc, roc_curve

    rng = np.random.default_rng(decimals)
    same = rng.random(3000) < 0.2
    scores = np.where(same, rng.normal(1, 1, 3000), rng.normal(0, 1, 3000)).round(decimals).astype("f4")
    curve = ReceiverCurve(scores, same)
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    assert curve.area() == pytest.approx(auc(far, tar), abs=1e-12)
    along = np.linspace(0, 1, 101)  # the curve's straight pieces, cut finely: where FAR and FRR cross
    fars = np.concatenate([np.interp(along, (0, 1), ends) for ends in pairwise(far)])
    tars = np.concatenate([np.interp(along, (0, 1), ends) for ends in pairwise(tar)])
    nearest = np.argmin(abs(fars - (1 - tars)))
    assert curve.equal_error_rate() == pytest.approx(fars[nearest], abs=abs(fars - (1 - tars)).min() + 1e-9)
    for target in (1e-1, 1e-2, 1e-3, 0.5, 1.0):
        assert curve.true_accept_rate(target) == pytest.approx(tar[far <= target].max(), abs=1e-12)


@pytest.mark.parametrize(("same", "expected"), [((1.0, 2.0), 0.0), ((-2.0, -1.0), 1.0), ((0.0, 0.0), 0.5)])
def test_equal_error_of_scores_that_part_do_not_part_or_are_all_one(same, expected):
    scores = np.array([*same, 0.0, 0.0], dtype="f4")
    curve = ReceiverCurve(scores, np.arange(4) < 2)
    assert curve.equal_error_rate() == pytest.approx(expected)
    assert curve.area() == pytest.approx(1 - expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(value):
    identities = np.repeat(np.arange(12), 4)
    embeddings = np.eye(12, dtype="f4")[identities]
    embeddings[5, 3] = value
    with pytest.raises(GateError, match="1 of 48 embeddings hold NaN or infinity"):
        measure_verification(embeddings, identities, draw_pairs(identities))


def test_very_large_embeddings_are_measured_by_their_direction():
    identities = np.repeat(np.arange(12), 4)
    embeddings = np.random.default_rng(0).normal(size=(48, 6)).astype("f4")
    pairs = draw_pairs(identities)
    assert measure_verification(embeddings * np.float32(1e30), identities, pairs).accuracy == pytest.approx(
        measure_verification(embeddings, identities, pairs).accuracy
    )


def test_a_perfect_embedding_scores_one_everywhere():
    identities = np.repeat(np.arange(12), 4)
    embeddings = np.eye(12, dtype="f4")[identities]
    result = measure_verification(embeddings, identities, draw_pairs(identities))
    assert (result.accuracy, result.tar_at_far_1e2, result.rank1) == (1.0, 1.0, 1.0)


def test_rank1_asks_only_for_images_whose_identity_has_another():
    identities = np.concatenate([np.repeat(np.arange(10), 2), np.arange(10, 40)])
    embeddings = np.eye(40, dtype="f4")[identities] + 1e-3 * np.random.default_rng(0).normal(size=(50, 40)).astype("f4")
    result = measure_verification(embeddings, identities, draw_pairs(identities))
    assert (result.rank1, result.single_image_identities) == (1.0, 30)


def test_a_rate_that_the_pairs_cannot_resolve_is_not_measured():
    """12 people with 4 images: 1,056 pairs of two people, so one in 1,000 can be told and one in 10,000 cannot."""
    identities = np.repeat(np.arange(12), 4)
    embeddings = np.random.default_rng(0).normal(size=(48, 6)).astype("f4")
    result = measure_verification(embeddings, identities, draw_pairs(identities))
    assert (result.same_pairs, result.different_pairs) == (72, 1056)
    assert result.tar_at_far_1e3 is not None
    assert result.tar_at_far_1e4 is result.tar_low["tar_at_far_1e4"] is None
    assert [result.impostors[f"tar_at_far_1e{n}"] for n in (1, 2, 3, 4)] == [105, 10, 1, 0]
    (warning,) = result.warnings
    assert "1e-4, 1e-5, 1e-6 is not measured: 1,056 pairs" in warning
    assert "10,000 at least" in warning
    assert "tar_at_far_1e4" not in measurable_metrics(identities, draw_pairs(identities), known_identities=True)


def bootstrap_by_the_formula(scores, same, people, count, far, replicates, rng):
    """Each replicate written out: identities drawn with replacement, pairs repeated, and TAR of the longer lists."""
    from scipy import stats  # takes a second, which each test process would pay

    rates = []
    for _ in range(replicates):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        repeats = np.where(same, times[people[:, 0]], times[people[:, 0]] * times[people[:, 1]])
        rates.append(ReceiverCurve(np.repeat(scores, repeats), np.repeat(same, repeats)).true_accept_rate(far))
    share = stats.norm.cdf(-np.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1))
    return np.quantile(rates, [share, 1 - share], method="weibull")


def test_the_interval_is_that_of_pairs_repeated_as_often_as_their_identities_are_drawn():
    rng = np.random.default_rng(1)
    people = rng.integers(0, 30, (3000, 2))
    same = people[:, 0] == people[:, 1]
    scores = (rng.normal(size=3000) + 2 * same).round(2).astype("f4")
    pairs = ScoredPairs(scores, same, people)
    for far in (0.1, 0.01):
        expected = bootstrap_by_the_formula(scores, same, people, 30, far, 200, np.random.default_rng(0))
        np.testing.assert_allclose(true_accept_intervals(pairs, [far])[far], expected)


@pytest.mark.slow
def test_seven_of_eight_intervals_hold_the_mean_of_the_eight_data_sets():
    """1,001 people with 4 images each, from one generator: what the interval promises for people of the same kind."""
    identities = np.repeat(np.arange(1001), 4)
    results = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        hard = rng.uniform(0.6, 1.4, 1001)[identities, None]  # some people are harder to know again than others
        embeddings = rng.normal(size=(1001, 32))[identities] + hard * rng.normal(size=(4004, 32))
        results.append(measure_verification(embeddings.astype("f4"), identities, draw_pairs(identities)))
    for name in ("tar_at_far_1e2", "tar_at_far_1e3"):
        mean = np.mean([getattr(result, name) for result in results])
        assert sum(result.tar_low[name] <= mean <= result.tar_high[name] for result in results) >= 7


def test_true_accepts_mean_the_same_at_any_number_of_images(monkeypatch):
    """With 400 images every pair of two people is measured, with 1,600 a part of them; the people are alike."""
    monkeypatch.setattr("rtool.finetune.evaluation.pairs.verification.MOST_DIFFERENT", 100_000)
    rates = []
    for people in (100, 400):
        rng = np.random.default_rng(people)
        identities = np.repeat(np.arange(people), 4)
        embeddings = rng.normal(size=(people, 32))[identities] + rng.normal(size=(4 * people, 32))
        result = measure_verification(embeddings.astype("f4"), identities, draw_pairs(identities))
        rates.append((result.tar_low["tar_at_far_1e3"], result.tar_high["tar_at_far_1e3"]))
    assert max(low for low, _ in rates) < min(high for _, high in rates)


def test_listed_pairs_count_images_joined_by_same_pairs_as_one_person():
    pairs = np.array([[0, 1, 1], [1, 2, 1], [3, 4, 1], [0, 3, 0], [2, 5, 0], [4, 5, 0], [1, 5, 0]])
    unit = np.eye(6, dtype="f4")
    people = scored_pairs(unit, np.arange(6), pairs, known_identities=False)[0].identities
    assert people.tolist() == [[0, 0], [0, 0], [1, 1], [0, 1], [0, 2], [1, 2], [0, 2]]
