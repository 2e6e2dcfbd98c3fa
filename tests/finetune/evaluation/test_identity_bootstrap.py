"""The 95 % interval over identities: the expanded percentile interval, with SciPy's distributions as the oracle."""

import numpy as np
import pytest

from rtool.finetune.evaluation.identity_bootstrap import interval


def expected_ends(replicates, identities):
    """Hesterberg's formula: ranks p (R + 1) of the sorted replicates, between two of them in proportion."""
    from scipy import stats  # takes a second, which each test process would pay

    share = stats.norm.cdf(-np.sqrt(identities / (identities - 1)) * stats.t.ppf(0.975, identities - 1))
    ranks = np.array([share, 1 - share]) * (len(replicates) + 1)
    return np.interp(ranks, np.arange(1, len(replicates) + 1), np.sort(replicates))


@pytest.mark.parametrize("identities", [2, 3, 4, 9, 80, 81, 20_000])
def test_the_ends_are_those_of_the_formula(identities):
    replicates = np.random.default_rng(identities).normal(size=(1000, 2))
    ends = interval(replicates, identities)
    for column in (0, 1):
        np.testing.assert_allclose(ends[:, column], expected_ends(replicates[:, column], identities), rtol=1e-9)


def test_of_one_identity_it_is_what_the_replicates_reach_and_nan_does_not_count():
    replicates = np.array([[0.5], [np.nan], [0.25], [0.75]])
    assert interval(replicates, 1).ravel().tolist() == [0.25, 0.75]
