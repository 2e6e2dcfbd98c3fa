"""The table of real files: what counts as a fault, and that a journal is gone on from."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.benchmarks.robustness import package_files, packages
from rtool.benchmarks.robustness.package_checks import Command, FileResult, try_file


def result(name, **steps):
    return FileResult("p 1.0", name, "0", 1, 13, "1", {key.replace("_", " "): step for key, step in steps.items()})


def test_every_file_is_counted_and_anything_but_success_or_a_refusal_is_a_fault():
    results = [
        result("a.onnx", convert=Command(0, error=1e-6), batch_dynamic=Command(2, "has no image axis")),
        result("b.onnx", convert=Command(2, "no lowering")),
        result("c.onnx", convert=Command(-11, "killed")),
        result("d.onnx", convert=Command(1, "differs by 0.1")),
        result("e.onnx", convert=Command(0, error=2e-6, oracle="onnx.reference")),
    ]
    assert packages.totals(results)["convert"] == {"files": 5, "done": 2, "refused": 1, "fault": 2}
    assert [bool(each.faults) for each in results] == [False, False, True, True, False]
    text = packages.table(results)
    assert "2.0e-06 (reference)" in text
    assert "| p 1.0, b.onnx | convert | 2 | no lowering |" in text


@pytest.mark.slow
def test_a_file_goes_through_every_command_and_the_journal_is_gone_on_from(tmp_path, monkeypatch, capsys):
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node("Relu", ["c"], ["y"])]
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", TensorProto.FLOAT, [1, 3, 8, 8])], [value("y", TensorProto.FLOAT, [1, 4, 6, 6])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    path = tmp_path / ".packages" / "p-1.0" / "models" / "m.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    archive = package_files.Archive("p", "1.0", "0")
    monkeypatch.setattr(packages, "fetch", lambda: {archive: [path]})
    journal = tmp_path / "journal"
    assert packages.main(["--journal", str(journal), "--results", str(tmp_path)]) == 0
    (found,) = packages._read(journal).values()
    assert {name: step.exit for name, step in found.steps.items()} == dict.fromkeys(
        ["inspect", "convert", "export back", "same as the file", "batch dynamic"], 0
    )
    assert found.steps["convert"].error <= 1e-5
    assert math.isnan(found.steps["export back"].error)
    capsys.readouterr()
    monkeypatch.setattr(packages, "try_file", lambda *_: 1 / 0)  # nothing is left to try
    assert packages.main(["--journal", str(journal), "--results", str(tmp_path)]) == 0


@pytest.mark.slow
def test_a_file_that_is_no_model_is_refused_and_no_fault(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    found = try_file("p 1.0", tmp_path / "m.onnx", "m.onnx")
    assert not found.faults
    assert found.steps["convert"].exit == 2
    assert "m.onnx" in found.steps["convert"].detail
