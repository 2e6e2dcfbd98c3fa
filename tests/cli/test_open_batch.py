"""A file that declares an open batch but is right at one batch only: each command that would use it says so."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.cli.main import run

CAUSE = "declares an open batch, but a batch of"
DATA = "synthetic-people:identities=4,seed=1"


def rolled(path, batch):
    """An embedding of 8 numbers, rolled within each of 4 rows: a window attention that was traced at 4 images."""
    weights = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    tensors = {"w": weights, "rows": np.int64([4, -1]), "back": np.int64([-1, 8]), "one": np.int64([1])}
    tensors |= {"zero": np.int64([0]), "far": np.int64([1 << 40])}
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["e"]),
        helper.make_node("Reshape", ["e", "rows"], ["r"]),
        helper.make_node("Slice", ["r", "one", "far", "one"], ["tail"]),
        helper.make_node("Slice", ["r", "zero", "one", "one"], ["head"]),
        helper.make_node("Concat", ["tail", "head"], ["c"], axis=1),
        helper.make_node("Reshape", ["c", "back"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
        for name, shape in (("x", (3, 32, 16)), ("y", (8,)))
    ]
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "rolled", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


@pytest.fixture
def declared_open(tmp_path):
    return rolled(tmp_path / "rolled.onnx", "b")


def test_deploy_refuses_it(declared_open, tmp_path, capsys):
    for batch in ([], ["--batch", "dynamic"]):
        command = ["deploy", declared_open, "--name", "rolled", "--repository", str(tmp_path / "models"), *batch]
        assert run(command) == 2
        said = capsys.readouterr().err
        assert CAUSE in said
        assert "right at a batch of 4 only" in said
    assert not list(tmp_path.glob("models/*"))


def test_a_dry_run_of_finetune_refuses_it(declared_open, tmp_path, capsys):
    settings = {"model": {"reference": declared_open}, "data": {"train": DATA}, "losses": [{"kind": "arcface"}]}
    (tmp_path / "c.yaml").write_text(json.dumps(settings))
    assert run(["finetune", str(tmp_path / "c.yaml"), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert CAUSE in said
    assert "training would mix images" in said


def test_evaluate_fixes_it_and_says_so(declared_open, tmp_path, capsys):
    preprocessing = ["--preprocessing", "imagenet", "--json"]
    assert run(["evaluate", declared_open, DATA, *preprocessing]) == 0
    found = capsys.readouterr()
    assert CAUSE in found.err
    assert "right at a batch of 4 only" in found.err
    assert run(["evaluate", rolled(tmp_path / "four.onnx", 4), DATA, *preprocessing]) == 0
    fixed = capsys.readouterr()
    assert CAUSE not in fixed.err
    metrics = [json.loads(output.out) for output in (found, fixed)]
    assert metrics[0]["rank1"] == metrics[1]["rank1"]
    assert metrics[0]["mAP"] == metrics[1]["mAP"]
