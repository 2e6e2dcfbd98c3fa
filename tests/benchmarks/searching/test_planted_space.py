"""The gate of the search: in a space with an operation that ignores its input, it is on no edge of the found cell."""

import pytest

from rtool.benchmarks.searching.planted_space import run_planted


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_edge_carries_noise_and_the_cell_is_worth_twice_the_random_ones(seed, tmp_path):
    result = run_planted(seed, tmp_path)
    assert result.noise_edges == 0
    assert result.found >= 2 * sum(result.random) / len(result.random), str(result)
