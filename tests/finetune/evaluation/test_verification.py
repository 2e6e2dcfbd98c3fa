"""10-fold accuracy and TAR@FAR against the protocol written out with loops."""

import numpy as np
import pytest

from rtool.errors import DataError, GateError
from rtool.finetune.data.splits import draw_pairs
from rtool.finetune.evaluation.verification import (
    fold_accuracies,
    fold_true_accepts,
    measure_verification,
    roc_curve,
    true_accept_rate,
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
    assert true_accept_rate(scores, same, 0.1) == pytest.approx(2 / 4)
    assert true_accept_rate(scores, same, 0.2) == pytest.approx(4 / 4)
    assert true_accept_rate(scores, same, 0.0) == pytest.approx(0 / 4)


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
            thresholds = np.arange(0, 4, 0.001)
            rates = [np.mean(distances[train][~same[train]] < threshold) for threshold in thresholds]
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
    fars, tars = np.array(roc_curve(scores, same)).T
    assert fars[0] == pytest.approx(1e-3)  # 300 different pairs make one in 300 at best
    assert (fars[-1], tars[-1]) == (1.0, 1.0)
    assert (np.diff(fars) > 0).all()
    assert (np.diff(tars) >= 0).all()
    for far in (1e-2, 1e-1):
        allowed = sorted(scores[~same], reverse=True)[int(far * 300)]
        assert tars[np.argmin(abs(fars - far))] == pytest.approx(np.mean(scores[same] > allowed))


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


def test_drawn_pairs_are_balanced_in_every_fold_and_labelled_right():
    identities = np.repeat(np.arange(15), 4)
    pairs = draw_pairs(identities)
    assert (pairs[:, 2] == (identities[pairs[:, 0]] == identities[pairs[:, 1]])).all()
    assert [fold[:, 2].mean() for fold in np.array_split(pairs, 10)] == [0.5] * 10
    assert (draw_pairs(identities) == pairs).all()


def test_too_few_pairs_for_the_folds_are_an_error():
    with pytest.raises(DataError, match="folds"):
        draw_pairs(np.array([0, 0, 1, 1]))
