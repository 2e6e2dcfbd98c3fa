"""Figures of the export benchmarks: intervals over sets of sessions, bounds that can be missed, resumable rows."""

import json

import numpy as np
import pytest

from rtool.benchmarks.export import export_bench, int8_bench
from rtool.benchmarks.export.export_latency import ratio_with_interval
from rtool.benchmarks.export.restoring_value import summarise
from rtool.errors import GateError, InputError


def times(sets: int, rounds: int, seed: int, *, of_set: float = 0.0) -> np.ndarray:
    """Milliseconds around 10 with 2 % of noise per round, and a relative deviation `of_set` per set of sessions."""
    generator = np.random.default_rng(seed)
    shared = of_set * generator.standard_normal((sets, 1))
    return 10 * (1 + shared + 0.02 * generator.standard_normal((sets, rounds)))


def test_the_interval_of_a_ratio_holds_the_true_one():
    median, low, high = ratio_with_interval(1.1 * times(8, 40, 0), times(8, 40, 1))
    assert low < 1.1 < high
    assert low < median < high
    assert high - low < 0.02


def test_what_a_set_of_sessions_shares_widens_the_interval():
    """Forty rounds of eight sets are not 320 independent measurements when the rounds of a set share a deviation."""
    _, low, high = ratio_with_interval(times(8, 40, 0), times(8, 40, 1))
    _, lucky_low, lucky_high = ratio_with_interval(times(8, 40, 0, of_set=0.05), times(8, 40, 1, of_set=0.05))
    assert lucky_high - lucky_low > 3 * (high - low)


def test_one_missed_bound_is_named_and_unmeasured_ones_are_not(tmp_path):
    path = tmp_path / "export.json"
    even = (1.0, 0.99, 1.01)
    ratios = {"exported": {"source": (1.03, 1.025, 1.04)}, "source": {"onnxslim": even, "onnxsim": even}}
    export_bench._merge(path, "vit_tiny", {"latency": {"ratios": ratios}})
    export_bench._merge(path, "osnet_x0_25", {"fp16_size": 0.53})
    report = json.loads(path.read_text())
    assert [row["network"] for row in report["rows"]] == ["osnet_x0_25", "vit_tiny"]
    assert report["missed"] == ["osnet_x0_25: fp16 file <= 0.52", "vit_tiny: latency <= 1.02 of the source's"]


def test_a_later_part_completes_the_row_of_an_earlier_one(tmp_path):
    path = tmp_path / "export.json"
    export_bench._merge(path, "vit_tiny", {"fp16_size": 0.5})
    export_bench._merge(path, "vit_tiny", {"fp16_cosine": 1.0})
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["fp16_size"], row["fp16_cosine"]) == (0.5, 1.0)


def test_timing_needs_the_graphs(tmp_path):
    with pytest.raises(InputError, match="--part graphs first"):
        export_bench.main(["vit_tiny", "--part", "latency", "--files", str(tmp_path), "--results", str(tmp_path)])


@pytest.mark.parametrize(("ratio", "held"), [(0.6, True), (0.8, False)])
def test_one_fast_network_is_enough_for_the_latency_of_int8(ratio, held):
    def row(latency: float) -> dict:
        ratios = {"int8": {"float32": (latency, latency, latency)}}
        return {"size": 0.28, "held_out_cosine": 0.999, "latency": {"ratios": ratios}}

    missed = int8_bench._missed({"osnet_x1_0": row(0.9), "iresnet50": row(ratio)})
    assert bool(missed) is not held


def test_the_gain_of_restoring_is_over_the_better_fused_rate_of_as_many_seeds():
    def runs(*values: float) -> dict:
        return {str(seed): {"mAP": value} for seed, value in enumerate(values)}

    measured = {
        "restored, learning rate 0.0015": runs(0.8, 0.7),
        "fused, learning rate 0.0015": runs(0.4, 0.4),
        "fused, learning rate 0.0005": runs(0.6, 0.7),
        "fused, learning rate 0.00015": runs(0.9),  # one seed: tried, not compared
    }
    summary = summarise(measured)
    assert summary["gain_over"] == {"fused, learning rate 0.0015": 0.35, "fused, learning rate 0.0005": 0.1}
    assert summary["restored_beats_fused"]
    assert summary["variants"]["restored, learning rate 0.0015"]["mAP_standard_deviation"] == pytest.approx(0.0707)
    measured["fused, learning rate 0.0005"] = runs(0.8, 0.8)
    assert not summarise(measured)["restored_beats_fused"]


def test_a_network_that_the_gate_refuses_is_a_miss_and_not_the_end(monkeypatch, tmp_path):
    def refuse(*_: object) -> None:
        raise GateError("int8: min cosine 0.5")

    (tmp_path / "osnet_x1_0").mkdir()
    (tmp_path / "osnet_x1_0" / "exported.onnx").write_bytes(b"")
    monkeypatch.setattr(int8_bench.onnx, "load", lambda _: None)
    monkeypatch.setattr(int8_bench, "search_int8", refuse)
    row = int8_bench.measure_network("osnet_x1_0", tmp_path)
    assert row == {"network": "osnet_x1_0", "refused": "int8: min cosine 0.5"}
    assert int8_bench._missed({"osnet_x1_0": row}) == ["osnet_x1_0: refused by the gate"]
