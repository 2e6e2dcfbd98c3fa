"""A repository is compared with the target release, and with what the embedded server would refuse."""

import json

import onnx
import pytest
from onnx import TensorProto, helper

from rtool.cli import main
from rtool.errors import InputError
from rtool.serving import deploy
from rtool.serving.publishing.release_check import DEFAULT_RELEASE, check_release
from rtool.serving.releases.advisories import lacking
from rtool.serving.server.container import RELEASE


@pytest.fixture
def root(tmp_path, onnx_files):
    deploy(onnx_files["reid"], name="reid", repository=tmp_path / "models", device="cpu")
    return tmp_path / "models"


def replace_graph(root, *, opset: int = 17, ir: int = 8, domain: str = "", bf16: bool = False) -> None:
    """Another graph in place of version 1, as a hand-copied file would be."""
    nodes = [
        helper.make_node("Relu" if not domain else "Special", ["images"], ["embedding"], name="one", domain=domain)
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [16, 3])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [16, 3])
    half = [helper.make_tensor("b", TensorProto.BFLOAT16, [1], [1.0])] if bf16 else []
    graph = helper.make_graph(nodes, "g", [images], [embedding], half)
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=ir), root / "reid/1/model.onnx")


def edit(root, old: str, new: str) -> None:
    path = root / "reid/config.pbtxt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_what_was_published_fits_both(root):
    assert check_release(root).refused == ()
    assert check_release(root, release="24.10", embedded=True).refused == ()
    assert (check_release(root).runtime, check_release(root, release="24.10").runtime) == ("1.27", "1.19")


@pytest.mark.parametrize(
    ("graph", "target", "embedded"),
    [
        ({"opset": 22, "ir": 10}, None, "opset 22 is newer than triton:24.10 reads (21)"),
        ({"ir": 11}, None, "IR version 11 is newer than triton:24.10 reads (10)"),
        ({"opset": 28, "ir": 14}, "opset 28 is newer than triton:26.07 reads", "opset 28 is newer"),
        ({"domain": "my.own"}, "(Special of my.own) is not known to triton:26.07", "(Special of my.own) is not known"),
        ({"bf16": True}, "may not read bfloat16", "may not read bfloat16"),
    ],
)
def test_a_graph_is_held_to_the_release_s_runtime(root, graph, target, embedded):
    replace_graph(root, **graph)
    newest, oldest = check_release(root).refused, check_release(root, release="24.10", embedded=True).refused
    assert (target is None and newest == ()) or any(target in problem for problem in newest)
    assert any(embedded in problem for problem in oldest)


@pytest.mark.parametrize(
    ("old", "new", "target", "embedded"),
    [
        ('backend: "onnxruntime"', 'backend: "fil"', None, "backend 'fil' is not part of the embedded server"),
        ('backend: "onnxruntime"', 'backend: "mine"', "backend 'mine' is not part of its image", "backend 'mine'"),
        ('backend: "onnxruntime"', 'backend: "pytorch" platform: "torch_aoti"', None, "needs Triton 26.03 or newer"),
        (
            'backend: "onnxruntime"',
            'platform: "ensemble" ensemble_scheduling { max_inflight_requests: 4 }',
            None,
            "max_inflight_requests needs Triton 25.11 or newer",
        ),
        ("data_type: TYPE_FP32", "data_type: TYPE_BF16", None, "TYPE_BF16 cannot be carried by the embedded server"),
        (
            'backend: "onnxruntime"',
            'backend: "onnxruntime" optimization { execution_accelerators { '
            'gpu_execution_accelerator { name: "tensorrt" } } }',
            None,
            "execution accelerators (tensorrt) need the C++ back end",
        ),
    ],
)
def test_a_configuration_is_held_to_the_release(root, old, new, target, embedded):
    edit(root, old, new)
    newest, oldest = check_release(root).refused, check_release(root, release="24.10", embedded=True).refused
    assert (target is None and newest == ()) or any(target in problem for problem in newest)
    assert any(embedded in problem for problem in oldest)


def test_the_default_release_is_that_of_the_image():
    assert DEFAULT_RELEASE == RELEASE


def test_an_unknown_release_lists_the_nearest(root):
    with pytest.raises(InputError, match=r"triton:26\.07"):
        check_release(root, release="26.77")


@pytest.mark.parametrize("command", [["serve"], ["deploy", "--name", "reid", "--repository"]])
def test_check_prints_the_target_and_the_embedded_server_and_their_faults(root, capsys, command):
    replace_graph(root, opset=22, ir=10)
    assert main.run([*command, str(root), "--check", "--json"]) == 1  # the graph no longer fits its configuration
    found = json.loads(capsys.readouterr().out)
    assert found["target"]["refused"] == []
    assert found["target"]["lacks"] == ""
    (embedded,) = found["embedded"]
    assert embedded["release"] == "24.10"
    assert "opset 22" in embedded["refused"][0]
    assert f"lacks {len(lacking('24.10'))} security fixes" in embedded["lacks"]


def test_a_problem_with_the_target_fails_the_check(root, capsys):
    assert main.run(["serve", str(root), "--check"]) == 0
    assert "Triton 26.07 (ONNX Runtime 1.27) refuses nothing" in capsys.readouterr().out
    edit(root, 'backend: "onnxruntime"', 'backend: "mine"')
    assert main.run(["serve", str(root), "--check"]) == 1
    assert "Triton 26.07: reid: backend 'mine'" in capsys.readouterr().err
