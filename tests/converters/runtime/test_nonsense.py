"""Outputs that no gate may pass: NaN and infinity, counted and located, and one answer for every image."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import rtool
from rtool.cli import main
from rtool.converters.runtime.nonsense import find_nonsense, not_finite, unreached_outputs
from rtool.errors import RtoolError


def model(path: Path, weights: np.ndarray, *, batch: int | str = "N", extra: bool = False) -> Path:
    """Rows of 3 numbers to an embedding of 2; with `extra`, a table of anchors too, one copy per row."""
    nodes = [helper.make_node("MatMul", ["rows", "weights"], ["embedding"])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 2])]
    values = {"weights": weights.astype(np.float32)}
    if extra:
        values |= {"table": np.arange(4, dtype=np.float32)[None], "four": np.array([4]), "first": np.array([0])}
        nodes += [
            helper.make_node("Shape", ["rows"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "first"], ["count"]),
            helper.make_node("Concat", ["count", "four"], ["wanted"], axis=0),
            helper.make_node("Expand", ["table", "wanted"], ["anchors"]),
        ]
        outputs.append(helper.make_tensor_value_info("anchors", TensorProto.FLOAT, [batch, 4]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [batch, 3])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


SOUND = np.array([[1, 2], [3, 4], [5, 6.5]])
NAN = np.array([[1, np.nan], [3, 4], [5, 6.5]])
INFINITE = np.array([[1, 2], [np.inf, 4], [5, 6.5]])
LOST = np.zeros((3, 2))


def test_values_that_are_not_finite_are_counted_and_located():
    array = np.zeros((2, 3), np.float32)
    array[1, 2], array[0, 1] = np.nan, -np.inf
    assert not_finite([np.zeros(3), array], ["a", "b"]) == ("b: 1 NaN and 1 infinite of 6 values, at [0, 1], [1, 2]",)
    assert not_finite([np.arange(3), np.ones((2, 2), np.float16)], []) == ()


@pytest.mark.parametrize("batch", [1, 2, "N"])
@pytest.mark.parametrize(
    ("weights", "said"),
    [(NAN, "NaN"), (INFINITE, "infinite"), (LOST, "the same to the last bit for 8 different inputs")],
)
def test_a_model_of_no_use_does_not_agree_with_itself(tmp_path, capsys, batch, weights, said):
    path = str(model(tmp_path / "m.onnx", weights, batch=batch))
    for options in ([], ["--min-cosine", "-1"], ["--max-rel", "1e9"]):
        assert main.run(["bench", "parity", path, path, *options]) == 1
        captured = capsys.readouterr()
        assert "FAILED" in captured.out
        assert "m.onnx: embedding: " in captured.err
        assert said in captured.err
    report = rtool.bench.parity(path, path)
    assert not report.passed
    assert len(report.nonsense) == 2  # one sentence for either side


def test_a_sound_model_agrees_with_itself_at_every_batch(tmp_path):
    for batch in (1, 2, "N"):
        path = model(tmp_path / f"m{batch}.onnx", SOUND, batch=batch)
        report = rtool.bench.parity(path, path)
        assert (report.passed, report.nonsense) == (True, ())


def test_a_table_that_no_input_reaches_may_be_the_same_for_every_image(tmp_path):
    path = model(tmp_path / "m.onnx", SOUND, extra=True)
    assert unreached_outputs(onnx.load(path).graph) == {"anchors"}
    assert rtool.bench.parity(path, path).passed
    lost = model(tmp_path / "lost.onnx", LOST, extra=True)
    assert any("embedding: the same" in said for said in rtool.bench.parity(lost, lost).nonsense)


def test_not_all_outputs_may_be_the_same(tmp_path):
    """A graph whose only output comes from the size of its input."""
    built = onnx.load(model(tmp_path / "m.onnx", np.eye(3, 2), extra=True))
    del built.graph.output[0]
    inputs, outputs = [np.eye(8, 3, dtype=np.float32)], [np.tile(np.arange(4, dtype=np.float32), (8, 1))]
    constant = unreached_outputs(built.graph)
    assert constant == {"anchors"}
    found = find_nonsense(lambda *_: outputs, inputs, outputs, ["anchors"], constant=constant)
    assert found == ("anchors: the same to the last bit for 8 different inputs",)


def test_two_equal_rows_are_looked_at_again_with_eight():
    inputs = [np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)]
    saturated = [np.ones((2, 3), np.float32)]
    asked = []

    def run(rows):
        asked.append(len(rows))
        return [rows[:, :1].repeat(3, axis=1)]

    assert find_nonsense(run, inputs, saturated, ["y"]) == ()
    assert asked == [8]
    assert find_nonsense(lambda rows: [np.ones((8, 3), np.float32)], inputs, saturated, ["y"]) == (
        "y: the same to the last bit for 8 different inputs",
    )


def test_one_number_per_image_may_be_the_same_beside_an_embedding_that_is_not():
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    assert find_nonsense(pytest.fail, [rows], [rows * 2, np.ones((8, 1), np.float32)], ["embedding", "count"]) == ()


@pytest.mark.parametrize("weights", [NAN, INFINITE, LOST])
def test_export_refuses_a_model_of_no_use_and_writes_nothing(tmp_path, weights):
    path = model(tmp_path / "m.onnx", weights)
    with pytest.raises(RtoolError, match=r"embedding: (\d+ (NaN|infinite)|the same to the last bit)"):
        rtool.export(path, tmp_path / "out.onnx")
    assert not list(tmp_path.glob("out.onnx*"))


def test_a_state_with_one_row_of_its_own_is_not_taken_for_an_image():
    """As a recurrent state [layers, N, hidden] of one layer beside one image."""
    shapes = []

    def run(*rows):
        shapes.append([row.shape for row in rows])
        return [rows[0] * 2]

    inputs = [np.ones((1, 3), np.float32), np.zeros((1, 1, 4), np.float32)]
    assert find_nonsense(run, [np.ones((2, 3), np.float32), inputs[1]], [np.ones((2, 3), np.float32)], ["y"]) == ()
    assert find_nonsense(run, inputs, [np.ones((1, 3), np.float32)], ["y"], per_image=[True, False]) == ()
    assert all(shape[1] == (1, 1, 4) for shape in shapes)
