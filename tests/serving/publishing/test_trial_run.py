"""Models that are right where an export measures them, and of no use to a server."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from rtool.errors import InputError
from rtool.serving import deploy


def spoiled_at(path: Path, size: int, value: float) -> Path:
    """The model in `path`, whose embeddings are multiplied by `value` in a batch of `size` alone."""
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "sound"
    constants = {"first": np.array(0), "size": np.array(size), "value": np.array(value, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["sound"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "first"], ["rows"]),
            helper.make_node("Equal", ["rows", "size"], ["hit"]),
            helper.make_node("Mul", ["sound", "value"], ["spoiled"]),
            helper.make_node("Where", ["hit", "spoiled", "sound"], ["embedding"]),
        ]
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("size", "value"), [(5, np.nan), (11, 2.0)])
def test_a_batch_that_no_export_measures_is_run_before_it_is_served(tmp_path, make_model, exported, size, value):
    path = exported(spoiled_at(make_model("reid", tmp_path / "m.onnx", batch="N"), size, value))
    with pytest.raises(InputError, match=f"a batch of {size} differs from its images one by one"):
        deploy(path, name="m", repository=tmp_path / "models", device="cpu")
    assert not (tmp_path / "models").exists()


def test_a_file_that_states_another_size_than_it_gives_is_refused(tmp_path, make_model, exported):
    path = make_model("reid", tmp_path / "m.onnx", batch="N")
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"states outputs float32 \[8, 9\] for 8 rows and gives float32 \[8, 8\]"):
        deploy(exported(path), name="m", repository=tmp_path / "models", device="cpu")
