"""Shapes, bounds and copied rows in constants follow the batch."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import export, set_batch
from rtool.errors import InputError

from ..batch_models import rows_of, run

TOKEN = np.arange(8, dtype=np.float32).reshape(1, 1, 8)


ROWS = {
    "a token tiled": (
        [helper.make_node("Tile", ["w", "n"], ["t"]), helper.make_node("Concat", ["t", "x"], ["y"], axis=1)],
        {"w": TOKEN, "n": np.int64([4, 1, 1])},
        [4, 4, 8],
    ),
    "a slice of all images": (
        [helper.make_node("Slice", ["x", "from", "to", "from"], ["t"]), helper.make_node("Relu", ["t"], ["y"])],
        {"from": np.int64([0]), "to": np.int64([4])},
        [4, 3, 8],
    ),
    "a slice of all rows of all images": (
        [
            helper.make_node("Reshape", ["x", "rows"], ["r"]),
            helper.make_node("Slice", ["r", "from", "to", "from"], ["t"]),
            helper.make_node("Reshape", ["t", "back"], ["y"]),
        ],
        {"rows": np.int64([12, 8]), "from": np.int64([0]), "to": np.int64([12]), "back": np.int64([4, 24])},
        [4, 24],
    ),
    "equal rows added behind a transposition": (
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            helper.make_node("Add", ["t", "w"], ["a"]),
            helper.make_node("Transpose", ["a"], ["y"], perm=[1, 0, 2]),
        ],
        {"w": np.repeat(np.float32([[[1]], [[2]], [[3]]]), 4, axis=1)},
        [4, 3, 8],
    ),
    "a shape computed from the input": (
        [
            helper.make_node("Shape", ["x"], ["s"], end=1),
            helper.make_node("Concat", ["s", "rest"], ["all"], axis=0),
            helper.make_node("Expand", ["w", "all"], ["t"]),
            helper.make_node("Concat", ["t", "x"], ["y"], axis=1),
        ],
        {"w": np.repeat(TOKEN, 4, axis=0), "rest": np.int64([1, 8])},
        [4, 4, 8],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_constants_that_hold_the_batch_follow_it(name):
    model = rows_of(*ROWS[name])
    images = np.random.default_rng(0).standard_normal((5, 3, 8)).astype(np.float32)
    expected = np.concatenate([run(model, np.repeat(images[i : i + 1], 4, axis=0))[:1] for i in range(5)])
    assert np.abs(run(set_batch(model, "dynamic"), images) - expected).max() <= 1e-6
    assert np.abs(run(set_batch(model, 5), images) - expected).max() <= 1e-6


def test_a_slice_of_some_images_is_refused():
    nodes, weights, _ = ROWS["a slice of all images"]
    with pytest.raises(InputError, match="output 'y' has no image axis"):
        set_batch(rows_of(nodes, {**weights, "to": np.int64([2])}, [2, 3, 8]), "dynamic")


def test_an_export_error_names_the_model_and_nothing_else_is_printed(tmp_path, capfd):
    nodes, weights, _ = ROWS["a slice of all images"]
    path = tmp_path / "sliced.onnx"
    onnx.save(rows_of(nodes, {**weights, "to": np.int64([2])}, [2, 3, 8]), path)
    with pytest.raises(InputError, match=r"^sliced\.onnx: batch: output 'y' has no image axis"):
        export(path, tmp_path / "out.onnx", batch="dynamic")
    onnx.save(rows_of([helper.make_node("Reshape", ["x", "s"], ["y"])], {"s": np.int64([2, 48])}, [2, 48]), path)
    with pytest.raises(InputError, match="no image axis"):
        set_batch(onnx.load(path), 3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("current", [1, 2])
def test_a_resize_by_sizes_and_a_strided_gather_follow_the_batch(current):
    """Both hold the batch in constants: sizes [N, 2, 4, 4], and indices of every image in the flat values."""
    picked = (np.arange(current)[:, None] * 32 + np.array([0, 5, 31])[None]).astype(np.int64)
    nodes = [
        helper.make_node("Resize", ["x", "", "", "sizes"], ["r"], mode="nearest"),
        helper.make_node("Reshape", ["r", "flat"], ["f"]),
        helper.make_node("Gather", ["f", "picked"], ["y"], axis=0),
    ]
    weights = {"sizes": np.int64([current, 2, 4, 4]), "flat": np.int64([-1]), "picked": picked}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [current, 2, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [current, 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.random.default_rng(0).standard_normal((5, 2, 2, 2)).astype(np.float32)
    expected = x.repeat(2, 2).repeat(2, 3).reshape(5, 32)[:, [0, 5, 31]]
    assert np.array_equal(run(set_batch(model, "dynamic"), x), expected)
    assert np.array_equal(run(set_batch(model, 5), x), expected)
