"""`rtool export` from the command line: artefact last, one JSON object, messages instead of tracebacks."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.cli.main import run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [weight],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_the_path_is_the_last_line(model, tmp_path, capsys):
    out = tmp_path / "out.onnx"
    assert run(["export", str(model), "-o", str(out), "--batch", "dynamic"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert onnx.load(out).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_json_holds_every_step(model, tmp_path, capsys):
    assert run(["export", str(model), "-o", str(tmp_path / "out.onnx"), "--fp16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in result["steps"]] == ["write-back", "fp16"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--batch", "many"], 2, "positive number or 'dynamic'"),
        (["--embed-preprocessing"], 2, "preprocessing"),
        (["--tolerance", "-1"], 2, "from 0 on, got -1.0"),
        (["--tolerance", "nan"], 2, "from 0 on, got nan"),
        (["--fp16", "--min-cosine", "nan"], 2, "from -1 to 1, got nan"),
        (["--fp16", "--keep-float32", "."], 2, ".: cannot be read (Is a directory); give an export's manifest"),
        (["--calibrate", "synthetic-people", "--calibration-images", "-5"], 2, "-5 is not in the range x>=1"),
        (["--half-io"], 2, "--half-io"),
    ],
)
def test_failures_are_one_message_and_an_exit_code(model, tmp_path, capsys, arguments, code, message):
    assert run(["export", str(model), "-o", str(tmp_path / "out.onnx"), *arguments]) == code
    captured = capsys.readouterr().err
    assert message in captured
    assert "Traceback" not in captured
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(("format", "suffix"), [("onnx", ".pt2"), ("onnx", ".pt"), ("pt2", ".onnx"), ("pt2", ".pt")])
def test_a_file_named_as_another_format_is_refused(model, tmp_path, capsys, format, suffix):
    assert run(["export", str(model), "-o", str(tmp_path / f"out{suffix}"), "--format", format]) == 2
    message = capsys.readouterr().err
    assert f"out{suffix}: would hold {format}, and {suffix} is the suffix of" in message
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
