"""The paired comparison, against numbers computed by hand."""

import pytest

from rtool.benchmarks.training.lost_code_table import paired, summarise, write_page

METRICS = {"people": "mAP"}


def test_ratio_difference_and_interval():
    """Differences .01, -.01, .02, 0, -.02: mean 0, deviation .01581, times 2.776 / sqrt 5."""
    original, recovered = [0.5, 0.5, 0.5, 0.5, 0.5], [0.51, 0.49, 0.52, 0.5, 0.48]
    found = paired(original, recovered)
    assert found["mean_ratio"] == 1.0
    assert found["mean_difference"] == 0.0
    assert found["difference_95_percent_interval"] == pytest.approx([-0.0196, 0.0196], abs=1e-4)
    assert found["passed"]


@pytest.mark.parametrize(
    ("recovered", "passed"),
    [
        ([0.6, 0.6, 0.6], True),
        ([0.495, 0.495, 0.496], True),  # the ratio is .99
        ([0.494, 0.494, 0.494], False),  # exactly worse
        ([0.48, 0.5, 0.503], False),  # the interval holds 0, and is wider than two points
        ([0.485, 0.49, 0.503], False),
        ([0.491, 0.494, 0.499], True),  # ratio .989, interval -.0154 to .0047
    ],
)
def test_the_criterion(recovered, passed):
    assert paired([0.5, 0.5, 0.5], recovered)["passed"] is passed


def run(seed: int, arm: str, value: float, *, steps: int = 10, data: str = "d") -> dict:
    return {"subject": "people", "seed": seed, "arm": arm, "rate": 1e-3, "mAP": value, "steps": steps, "data": data} | {
        "cpu_seconds": 30.0
    }


def test_only_complete_pairs_count(tmp_path):
    runs = [run(0, "original", 0.5), run(0, "recovered", 0.6), run(1, "recovered", 0.7), run(1, "original", 0.5)]
    summary = summarise([*runs, run(2, "original", 0.1)], METRICS)
    assert summary["people"]["scores"] == {"original": [0.5, 0.5], "recovered": [0.6, 0.7]}
    assert summary["people"]["cpu_minutes"] == 2.0
    assert summarise(runs[:2], METRICS) == {}
    write_page(tmp_path / "page.md", summary, "2026-11-29")
    assert "| people | mAP | 0.5000 | 0.6500 | 1.3000 | +0.1500 " in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize("other", [{"steps": 11}, {"data": "e"}])
def test_arms_with_another_budget_are_no_pair(other):
    with pytest.raises(ValueError, match="seed 0: the arms had different steps or data"):
        summarise([run(0, "original", 0.5), run(0, "recovered", 0.6, **other)], METRICS)
