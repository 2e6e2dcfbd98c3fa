"""`rtool bench`: one line where one line was asked for, and tolerances that no outcome could meet are refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.benchmarks.search_comparison import SearchComparison
from rtool.cli.main import run
from rtool.finetune.search.report.comparison import ComparedNetwork, found_percentile


@pytest.fixture
def model(tmp_path: Path) -> str:
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def test_parity_prints_its_verdict_alone_when_quiet(model, capsys):
    assert run(["bench", "parity", model, model, "-q"]) == 0
    assert capsys.readouterr().out == "PASSED: max relative error 0, min cosine 1.00000000\n"


def test_latency_prints_a_line_or_the_path_of_its_samples_when_quiet(model, tmp_path, capsys):
    arguments = ["bench", "latency", model, "--rounds", "3", "--warmup", "0", "-q"]
    assert run(arguments) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{model} p50 ")
    saved = tmp_path / "samples.json"
    assert run([*arguments, "--save", str(saved)]) == 0
    assert capsys.readouterr().out == f"{saved}\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--max-rel", "-1"], "a number from 0 on, got -1.0"),
        (["--max-rel", "nan"], "a number from 0 on, got nan"),
        (["--max-rel", "inf"], "a number from 0 on, got inf"),
        (["--min-cosine", "nan"], "a number from -1 to 1, got nan"),
        (["--min-cosine", "1.5"], "a number from -1 to 1, got 1.5"),
        (["--batch", "0"], "0 is not in the range x>=1"),
    ],
)
def test_a_bound_that_no_outcome_could_meet_is_refused_before_anything_is_opened(option, message, capsys):
    assert run(["bench", "parity", "nowhere.onnx", "nowhere.onnx", *option]) == 2
    assert message in capsys.readouterr().err


def test_a_comparison_of_what_a_search_found_is_a_table_and_its_page(capsys, monkeypatch, tmp_path):
    networks = (
        ComparedNetwork("found cell", "found", 4458, 120_576, 0.14, ({"mAP": 0.5}, {"mAP": 0.7})),
        ComparedNetwork("cell skip0", "random", 4458, 120_576, 0.14, ({"mAP": 0.55, "rank1": 0.8},)),
    )
    made = SearchComparison(networks, found_percentile(networks, "mAP"), tmp_path / "report.html")
    monkeypatch.setattr("rtool.benchmarks.search_comparison.search", lambda *_, **__: made)
    assert run(["bench", "search", "RUN", "a", "b"]) == 0
    said = capsys.readouterr().out
    assert "percentile 100 of 1 random cells by mAP (0 to 100 over 2 training seeds)" in said
    assert "120,576" in said
    assert said.splitlines()[-1] == str(tmp_path / "report.html")


def test_operations_are_timed_of_a_configuration_with_a_search_only(capsys, tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text("{model: {reference: osnet_x0_25}, data: {train: 'x'}, losses: [{kind: softmax}]}")
    assert run(["bench", "operations", str(config), "-o", str(tmp_path / "costs.json")]) == 2
    assert "no section search" in capsys.readouterr().err
    assert run(["bench", "operations", str(config), "-o", str(tmp_path / "nowhere/costs.json")]) == 2
    assert "does not exist; make it first" in capsys.readouterr().err
