"""Damage is seeded, half of it spares the weights, and a process that dies or hangs is a result."""

import os
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.benchmarks.robustness.damage import BAD, main
from rtool.benchmarks.robustness.damaged_files import KINDS, ModelFiles, damaged
from rtool.benchmarks.robustness.isolation import CRASHED, HUNG, Isolated


@pytest.fixture
def files():
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32), "w")
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", 4), ("y", 8))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", info[:1], info[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ModelFiles("small", {"model.onnx": model.SerializeToString()}, "model.onnx")


def test_a_variant_is_the_same_every_time(files):
    first = [damaged([files], index, seed=3) for index in range(40)]
    assert first == [damaged([files], index, seed=3) for index in range(40)]
    assert {variant.kind for variant in first} == set(KINDS)
    assert all(variant.model.files != files.files or variant.kind in ("zeros", "field") for variant in first)


def test_every_other_variant_spares_the_weights(files):
    raw = onnx.load_from_string(files.files["model.onnx"]).graph.initializer[0].raw_data
    variants = [damaged([files], index, seed=0) for index in range(200)]
    spared = [v for v in variants if v.structure and v.kind == "bit"]
    assert spared
    assert all(raw in v.model.files["model.onnx"] for v in spared)
    assert any(raw not in v.model.files["model.onnx"] for v in variants if not v.structure)


def test_a_crash_a_hang_and_an_exception_are_results_and_the_next_call_works():
    with Isolated(os._exit, seconds=30, gigabytes=1) as isolated:
        assert isolated(3) == (CRASHED, "the process ended with code 3")
        assert isolated(4) == (CRASHED, "the process ended with code 4")
    with Isolated(time.sleep, seconds=0.5, gigabytes=1) as isolated:
        assert isolated(60)[0] == HUNG
        assert isolated(0) is None
        kind, how = isolated("text")
        assert kind == CRASHED
        assert "TypeError" in how


@pytest.mark.slow
def test_some_damaged_files_are_refused_or_right(tmp_path, capsys):
    assert main(["--count", "32", "--seed", "5", "--results", str(tmp_path)]) == 0, capsys.readouterr().out
    table = next(tmp_path.glob("*-damage.md")).read_text()
    assert "32 variants" in table
    assert all(f"- {status}: " in table for status in BAD)
