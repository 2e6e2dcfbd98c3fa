"""Agreement of people found with true ones, against scikit-learn, definitions and worked figures."""

import numpy as np
import pytest

from rtool.serving.gallery.people.agreement import agreement


def test_the_worked_example_of_three_and_two():
    # pairs: tp 2, found 4, true 4; B-cubed (2*1 + 1/3 + 2*2/3) / 5
    result = agreement([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    assert (result.pair_precision, result.pair_recall, result.pair_f) == (0.5, 0.5, 0.5)
    assert result.bcubed_precision == pytest.approx((2 + 1 / 3 + 4 / 3) / 5, abs=1e-12)
    assert result.bcubed_recall == pytest.approx(0.7333, abs=5e-5)
    assert (result.people_found, result.people_true) == (2, 2)


@pytest.mark.parametrize("seed", range(6))
def test_random_labels_agree_as_scikit_learn_and_the_definition_say(seed: int):
    draw = np.random.default_rng(seed)
    truth, found = draw.integers(0, 3 + 5 * seed, 60), draw.integers(0, 2 + 7 * seed, 60)
    result = agreement(truth, found)
    from sklearn.metrics import homogeneity_completeness_v_measure, normalized_mutual_info_score
    from sklearn.metrics.cluster import pair_confusion_matrix  # not above: collecting the tests would load it

    (_, fp), (fn, tp) = pair_confusion_matrix(truth, found)
    assert result.pair_precision == pytest.approx(tp / (tp + fp), abs=1e-12)
    assert result.pair_recall == pytest.approx(tp / (tp + fn), abs=1e-12)
    assert (result.homogeneity, result.completeness, result.v_measure) == pytest.approx(
        homogeneity_completeness_v_measure(truth, found), abs=1e-9
    )
    assert result.nmi == pytest.approx(normalized_mutual_info_score(truth, found), abs=1e-9)
    same_true, same_found = truth[:, None] == truth, found[:, None] == found
    both = (same_true & same_found).sum(axis=1)
    assert result.bcubed_precision == pytest.approx((both / same_found.sum(axis=1)).mean(), abs=1e-12)
    assert result.bcubed_recall == pytest.approx((both / same_true.sum(axis=1)).mean(), abs=1e-12)


def test_one_person_and_nobody_alike_have_no_pairs_to_miss():
    assert agreement([0, 1, 2], [0, 1, 2]).pair_f == 1.0
    assert agreement([5, 5], ["a", "a"]).v_measure == 1.0
