"""`rtool inspect`, `onnx2torch` and `ops`: exit codes, JSON, and nothing left behind by bad input."""

import json

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.cli.main import run


@pytest.fixture
def model_path(tmp_path):
    import numpy as np

    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "conv.weight")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, 8, 8]), ("y", None))]
    nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["a"], name="conv"), helper.make_node("Relu", ["a"], ["y"])]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [weight])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_inspect_prints_one_json_object(model_path, capsys):
    assert run(["inspect", str(model_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operators"] == {"Conv": 1, "Relu": 1}
    assert found["parameters"] == 108


def test_onnx2torch_ends_with_the_path_and_refuses_to_replace(model_path, tmp_path, capsys):
    target = tmp_path / "out.rtool"
    assert run(["onnx2torch", str(model_path), "-o", str(target), "-q"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert run(["onnx2torch", str(model_path), "-o", str(target)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(["onnx2torch", str(model_path), "-o", str(target), "--overwrite", "-q"]) == 0


@pytest.mark.parametrize("content", [None, b"", b"<html>", b"version https://git-lfs", b"\x08\x07\x12"])
def test_bad_files_end_with_one_message_and_exit_code_2(tmp_path, capsys, content):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    for command in (["inspect", str(path)], ["onnx2torch", str(path), "-o", str(tmp_path / "out.rtool")]):
        assert run(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: ")
        assert str(path) in error
        assert "Traceback" not in error
    assert sorted(tmp_path.iterdir()) == before


def test_ops_lists_operators_and_their_opsets(capsys):
    assert run(["ops", "Conv", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["operator"] == "Conv"
    assert rows[0]["trainable"]
    assert run(["ops", "Convv"]) == 2
    assert "did you mean Conv" in capsys.readouterr().err
