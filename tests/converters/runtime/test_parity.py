"""Parity compared with values calculated by hand."""

import numpy as np
import pytest

from rtool.converters import assert_parity, measure_parity
from rtool.errors import GateError, InputError


def test_errors_are_relative_to_the_largest_reference_value():
    parity = measure_parity([np.array([[1.0, -4.0]])], [np.array([[1.5, -4.0]])])
    assert parity.max_abs == 0.5
    assert parity.max_rel == 0.125
    assert parity.worst == (0, 0)
    assert parity.min_cosine == pytest.approx((1.5 + 16) / np.sqrt(17 * 18.25))


@pytest.mark.parametrize(
    ("a", "b", "max_abs"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([np.nan, 1.0], [0.0, 1.0], np.inf),
        ([0.0, 1.0], [np.nan, 1.0], np.inf),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
    ],
)
def test_non_finite_values_agree_only_with_the_same_value_in_place(a, b, max_abs):
    parity = measure_parity([np.array(a)], [np.array(b)])
    assert parity.max_abs == max_abs
    assert parity.identical == (max_abs == 0)


def test_a_non_finite_candidate_never_passes():
    with pytest.raises(GateError):
        assert_parity([np.ones((1, 2))], [np.array([[np.nan, 1.0]])], min_cosine=0.5, reason="test")


def test_zero_rows_agree_with_each_other_and_with_nothing_else():
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert measure_parity([zero], [zero]).min_cosine == 1.0
    assert measure_parity([zero], [one]).min_cosine == 0.0


def test_rank_agreement_counts_rows_whose_nearest_neighbour_moved():
    reference = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    candidate = np.array([[1.0, 0.0], [0.1, 0.9], [0.0, 1.0]])
    assert measure_parity([reference], [reference]).rank_agreement == 1.0
    assert measure_parity([reference], [candidate]).rank_agreement == pytest.approx(2 / 3)  # only row 1 moved


def test_integer_outputs_are_compared_exactly():
    assert measure_parity([np.array([2**40])], [np.array([2**40 + 1])]).max_abs == 1.0


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [([np.ones(2)], [np.ones(2), np.ones(2)]), ([np.ones((2, 1))], [np.ones((1, 2))])],
)
def test_other_outputs_or_shapes_are_refused(reference, candidate):
    with pytest.raises(InputError, match="parity"):
        measure_parity(reference, candidate)


def test_a_missed_tolerance_names_numbers_place_and_reason():
    with pytest.raises(GateError, match=r"0\.5 > 0\.1.*output 0, element 1.*float32 sums"):
        assert_parity([np.array([2.0, 1.0])], [np.array([2.0, 2.0])], max_rel=0.1, reason="float32 sums")
