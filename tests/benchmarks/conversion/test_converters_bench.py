"""The comparison with other converters: how replies and lost processes are judged, and what the tables hold."""

import sys

import numpy as np
import onnx
import pytest
import torch

from rtool.benchmarks.conversion import converted_speed, converter_costs, converter_coverage, converters_bench
from rtool.benchmarks.conversion.folded_networks import fold_by_hand, images_for, randomised
from rtool.benchmarks.conversion.peers import Worker, judge
from rtool.benchmarks.operators.onnx_cases import Case

FLOAT = onnx.TensorProto.FLOAT


def doubling():
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, FLOAT, [3]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:]))
    x = np.arange(3, dtype=np.float32)
    return Case("doubling", model, {"x": x}, [2 * x])


@pytest.mark.parametrize(
    ("reply", "outputs", "verdict"),
    [
        ({"kinds": ["float32"]}, [torch.tensor([0.0, 2.0, 4.0])], "passed"),
        ({"kinds": ["float32"]}, [torch.tensor([0.0, 2.0, 5.0])], "wrong"),
        ({"kinds": ["float64"]}, [torch.tensor([0.0, 2.0, 4.0]).double()], "wrong"),
        ({"kinds": ["float32"]}, [torch.tensor([[0.0, 2.0, 4.0]])], "wrong"),
        ({"kinds": []}, [], "wrong"),
        ({"kinds": ["a list"]}, ["a list"], "wrong"),
        ({"stage": "converting", "error": "NotImplementedError: Foo", "refused": True}, [], "refused"),
        ({"stage": "running", "error": "KeyError: 'kernel'", "refused": False}, [], "crashed"),
    ],
)
def test_a_reply_is_judged_by_what_came_back(reply, outputs, verdict):
    status, detail = judge(doubling(), reply, outputs)
    assert status == verdict
    assert bool(detail) == (verdict != "passed")


def peer(program):
    return [sys.executable, "-c", program]


def test_a_process_that_dies_or_hangs_is_a_crash_and_the_next_request_gets_a_new_one():
    answer = "import sys; sys.stdin.readline(); print('{\"kinds\": []}', flush=True)"
    with Worker("dying", command=peer("import os; os._exit(3)")) as worker:
        assert worker.ask({"do": "run"})["error"] == "crash: the process ended"
        worker._command = peer(answer)
        assert worker.ask({"do": "run"}) == {"kinds": []}
    with Worker("hanging", timeout=0.2, command=peer("import time; time.sleep(60)")) as worker:
        reply = worker.ask({"do": "run"})
        assert reply == {"stage": "running", "error": "crash: no answer within 0.2 s", "refused": False}


def test_our_own_converter_answers_through_the_same_worker():
    with Worker("rtool") as worker:
        ((name, status, detail),) = converter_coverage.run_cases(worker, [doubling()])
    assert (name, status, detail) == ("doubling", "passed", "")


def test_coverage_table_has_one_column_per_tool_and_marks_those_not_run():
    row = {"passed": 3, "refused": 1, "wrong": 0, "crashed": 0}
    suites = {
        "light": {"cases": 4, "tools": {"rtool": row, "pnnx": {**row, "passed": 2, "wrong": 1}}},
        "simple": {"cases": 4, "tools": {"rtool": row}},
    }
    table = converter_coverage.table_of_coverage(suites)
    assert "| light | 4 | 3 / 1 / 0 / 0 | 2 / 1 / 1 / 0 |" in table
    assert "| simple | 4 | 3 / 1 / 0 / 0 | not run |" in table
    assert converter_coverage.missed_coverage(suites) == ["light: 3 passed, wanted 9"]


def conversion(seconds, rival, peak):
    row = {"imports": 50, "peak": 250, "difference": 1e-6}
    tools = {"rtool": {**row, "seconds": seconds, "peak": peak}, "onnx2pytorch": {**row, "seconds": rival}}
    tools["pnnx"] = {"error": "RuntimeError: no"}
    return {"network": "net", "rounds": 1, "files": {"opset 11": {"bytes": 100, "tools": tools}}}


def test_conversion_bounds_are_checked_against_the_rival_of_the_same_run():
    assert converter_costs.missed_conversion(conversion(0.5, 1.6, 290)) == []
    missed = converter_costs.missed_conversion(conversion(1.1, 1.6, 310))
    assert [words.split(", wanted")[0] for words in missed] == [
        "opset 11: 1.10 s",
        "opset 11: peak 3.10 x file",
        "opset 11: 1.45 times faster than onnx2pytorch",
    ]
    assert "| pnnx | refused or failed: RuntimeError: no |" in converter_costs.table_of_conversion(
        conversion(0.5, 1.6, 290)
    )


def test_speed_is_missed_when_the_whole_interval_is_above_the_bound():
    row = {"by_hand_ms": 10.0, "converted_ms": 10.2}
    fast, unsure, slow = ([1.0, 0.99, 1.01], [1.03, 1.01, 1.05], [1.05, 1.03, 1.07])
    result = {
        "a": {"batch": 1, "difference": 1e-7, "forward": {**row, "ratio": fast}, "step": {**row, "ratio": unsure}},
        "b": {"batch": 1, "difference": 1e-3, "forward": {**row, "ratio": slow}, "step": {**row, "ratio": fast}},
    }
    missed = converted_speed.missed_speed(result)
    assert [words.split(",")[0].split(":")[0] for words in missed] == ["b", "b"]
    assert "| a | 1 | 10.0 | 1.000 [0.990, 1.010] | 10.0 | 1.030 [1.010, 1.050] | 1.0e-07 |" in (
        converted_speed.table_of_speed(result)
    )


def test_ratio_is_computed_per_round():
    first = np.array([1.0, 10.0, 100.0])
    assert converted_speed.ratio_of(2 * first, first) == (2.0, 2.0, 2.0)


def test_the_report_lists_versions_parts_and_what_was_missed():
    report = {
        "date": "2026-11-22T00:00:00+00:00",
        "machine": {"processor": "P", "cores": 2, "libraries": {"torch": "2", "onnx": "1"}},
        "peers": {"onnx2torch": "1.5.15"},
        "missed": ["x: too slow"],
        "parts": {"conversion": conversion(0.5, 1.6, 290)},
    }
    text = converters_bench.render(report)
    assert "P, 2 cores; torch 2, onnx 1, onnx2torch 1.5.15" in text
    assert "## Time and memory of a conversion" in text
    assert text.endswith("- x: too slow\n")


def test_the_network_folded_by_hand_computes_the_same_with_fewer_parameters():
    network = randomised("osnet_x0_25")
    images = images_for("osnet_x0_25", 2)
    with torch.no_grad():
        expected = network(images)
        before = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
        got = fold_by_hand(network)(images)
    assert before > 50
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
