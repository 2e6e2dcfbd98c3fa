"""The table of trained networks: the found cell's percentile, the file, and files that are none."""

import pytest

from rtool.errors import InputError
from rtool.finetune.search.report.comparison import (
    ComparedNetwork,
    found_percentile,
    read_comparison,
    write_comparison,
)


def network(role: str, *values: float) -> ComparedNetwork:
    return ComparedNetwork("x", role, 1, 2, None, tuple({"mAP": value} for value in values))


def test_the_percentile_is_among_the_means_of_the_random_cells():
    others = [network("random", value - 0.1, value + 0.1) for value in (0.15, 0.25, 0.35, 0.45)]
    found = found_percentile([network("found", 0.2, 0.49), network("baseline", 9.0), *others], "mAP")
    assert (found.mean, found.low, found.high) == (50, 25, 100)
    assert str(found) == "percentile 50 of 4 random cells by mAP (25 to 100 over 2 training seeds)"


def test_equal_cells_count_half():
    assert found_percentile([network("found", 0.5), network("random", 0.5), network("random", 0.6)], "mAP").mean == 25


def test_there_is_no_percentile_without_both():
    assert found_percentile([network("found", 0.3)], "mAP") is None
    assert found_percentile([network("random", 0.3)], "mAP") is None
    assert found_percentile([network("found", 0.3), network("random", 0.3)], "rank1") is None


def test_a_file_reads_back(tmp_path):
    networks = (network("found", 0.3, 0.4), ComparedNetwork("y", "halving", 3, 4, 0.5, ({"mAP": 0.1, "top1": 0.9},)))
    write_comparison(tmp_path, networks)
    assert read_comparison(tmp_path) == networks
    assert read_comparison(tmp_path / "nowhere") == ()


@pytest.mark.parametrize("text", ["", "[]", '{"networks": 5}', '{"networks": [{"role": "best"}]}'])
def test_what_is_no_comparison_is_refused(tmp_path, text):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(InputError, match=r"comparison.json: not a comparison of networks .*rtool bench search"):
        read_comparison(tmp_path)


def test_a_role_that_does_not_exist_is_refused(tmp_path):
    write_comparison(tmp_path, [network("random", 0.1)])
    text = (tmp_path / "comparison.json").read_text().replace('"random"', '"winner"')
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(InputError, match="role 'winner'"):
        read_comparison(tmp_path)
