"""ONNX Runtime never gets a path: the bytes that were read, and weights of other files through memory."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from rtool.converters import OnnxRunner
from rtool.converters.runtime.session_model import session_model
from rtool.errors import InputError


def saved(folder, rows, *, external=True):
    """A Gemm of `rows` outputs and a bias, their data in `weights.bin`."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((rows, 8)).astype(np.float32)
    bias = generator.standard_normal(rows).astype(np.float32)
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    info = [helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 8), ("y", rows))]
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)], "g", *([i] for i in info))
    graph.initializer.extend(tensors)
    path = folder / "model.onnx"
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(proto, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path, weight, bias


@pytest.mark.parametrize("rows", [4, 1 << 16])  # 128 bytes go in with the model, 2 MiB beside it
def test_external_weights_reach_the_session_through_memory(tmp_path, rows):
    path, weight, bias = saved(tmp_path, rows)
    content = session_model(path, ort.SessionOptions()).content
    assert isinstance(content, bytes)
    assert (weight.tobytes() in content) == (rows == 4)
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    runner = OnnxRunner(path)
    (tmp_path / "weights.bin").unlink()
    others = [np.full((rows, 8), index, np.float32) for index in range(4)]  # in what memory was freed
    assert np.allclose(runner.run(x)[0], x @ weight.T + bias, atol=1e-5)
    assert len(others) == 4


@pytest.mark.parametrize("rows", [4, 1 << 16])
def test_a_whole_file_is_handed_over_as_the_bytes_that_were_read(tmp_path, rows):
    path, _, _ = saved(tmp_path, rows, external=False)
    assert session_model(path, ort.SessionOptions()).content == path.read_bytes()
    assert session_model(str(path), ort.SessionOptions()).content == path.read_bytes()


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(InputError, match="expected an ONNX model, got 4 bytes"):
        OnnxRunner(b"\xff\xff\xff\xff")
