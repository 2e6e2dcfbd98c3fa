"""A network scores the same whether its normalisation is inside its graph or outside of it."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import rtool
from rtool.cli import main
from rtool.converters import IMAGENET

PEOPLE = "synthetic-people:identities=12,images=8,seed=12,cameras=3,size=32x16"


def network(path, before=()):
    """Conv, Relu, Flatten, Gemm on 32x16 pixels, after nodes `(operator, constant)`."""
    random = np.random.default_rng(0)
    stored = {
        "w": random.normal(0, 0.1, (16, 3, 4, 4)),
        "fc": random.normal(0, 0.04, (24, 16 * 8 * 4)),
        **{f"c{index}": value for index, (_, value) in enumerate(before)},
    }
    nodes, value = [], "images"
    for index, (operator, _) in enumerate(before):
        nodes.append(helper.make_node(operator, [value, f"c{index}"], [f"v{index}"]))
        value = f"v{index}"
    nodes += [
        helper.make_node("Conv", [value, "w"], ["a"], strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"], axis=1),
        helper.make_node("Gemm", ["c", "fc"], ["embedding"], transB=1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 16])
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 24])
    weights = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", [images], [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("normalised")
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in (IMAGENET.mean, IMAGENET.std))
    network(folder / "plain.onnx")
    network(folder / "inside.onnx", [("Sub", mean), ("Div", std)])
    rtool.onnx2torch(folder / "inside.onnx", folder / "inside.rtool")
    return folder


@pytest.mark.parametrize("name", ["inside.onnx", "inside.rtool"])
def test_the_metrics_are_those_of_the_network_with_its_normalisation_outside(files, name):
    expected = rtool.evaluate(files / "plain.onnx", PEOPLE, preprocessing="imagenet")
    found = rtool.evaluate(files / name, PEOPLE)
    twice = rtool.evaluate(files / "plain.onnx", PEOPLE, preprocessing="raw")
    assert found.mAP == pytest.approx(expected.mAP, abs=1e-6)
    assert abs(twice.mAP - expected.mAP) > 0.01  # so another preprocessing would show


def test_parity_gives_each_of_them_what_it_expects(files):
    report = rtool.bench.parity(files / "plain.onnx", files / "inside.onnx", data=PEOPLE)
    assert report.passed
    assert "the candidate's: 32x16" in report.inputs
    with pytest.raises(rtool.errors.InputError, match="--data"):
        rtool.bench.parity(files / "plain.onnx", files / "inside.onnx", preprocessing="imagenet")


def test_every_command_says_what_it_decided(files, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    inside, words = str(files / "inside.onnx"), "32x16, 3 channels (rgb), mean [0.0, 0.0, 0.0], std [1.0, 1.0, 1.0]"
    for command in (
        ["inspect", inside],
        ["evaluate", inside, PEOPLE],
        ["onnx2torch", inside, "-o", str(files / "again.rtool"), "--overwrite"],
        ["export", inside, "-o", str(files / "again.onnx")],
    ):
        assert main.run(command) == 0, command
        assert f"{words}, bilinear (the graph normalises raw pixels itself: Sub, Div" in capsys.readouterr().out
    assert main.run(["evaluate", inside, PEOPLE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preprocessing_origin"].startswith("the graph normalises")
    assert main.run(["evaluate", inside, PEOPLE, "--preprocessing", "imagenet"]) == 2
    assert "would normalise twice" in capsys.readouterr().err
