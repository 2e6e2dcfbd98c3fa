"""`rtool deploy` and `rtool serve` from the command line: what is printed, and with which exit code."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.cli import main


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = numpy_helper.from_array(np.eye(3, 2, dtype=np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weights"], ["embedding"])],
        "tiny",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [16, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [16, 2])],
        [weights],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def deploy(model: Path, root: Path, *options: str) -> int:
    return main.run(
        ["deploy", str(model), "--name", "tiny", "--repository", str(root), "--device", "cpu", *_force(options)]
    )


def _force(options: tuple[str, ...]) -> list[str]:
    """The tiny model has no manifest of an export; a rollback takes no --force."""
    return [*options] if "--rollback" in options else ["--force", *options]


def test_deploy_ends_with_the_path_of_the_version(model, root, capsys):
    assert deploy(model, root, "--batch", "16") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(root / "tiny/1")


def test_deploy_as_json_is_one_object(model, root, capsys):
    assert deploy(model, root, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["name"], result["version"], result["batch"]) == ("tiny", 1, 16)


def test_rollback_goes_back_and_refuses_what_it_cannot_do(model, root, capsys):
    for _ in range(2):
        deploy(model, root, "--quiet")
    capsys.readouterr()
    assert main.run(["deploy", "--rollback", "--name", "tiny", "--repository", str(root), "-q"]) == 0
    assert capsys.readouterr().out.strip() == str(root / "tiny/1")
    assert deploy(model, root, "--rollback") == 2
    assert "--rollback accepts no MODEL" in capsys.readouterr().err


def test_a_packer_is_published_for_a_fixed_batch(model, root, capsys):
    deploy(model, root)
    assert main.run(["deploy", "--packer-for", "tiny", "--name", "pack", "--repository", str(root), "-q"]) == 0
    assert capsys.readouterr().out.strip().endswith("pack/1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "8"], "rtool export"),
        (["--batch", "many"], "'dynamic'"),
        (["--instances", "0"], "instances: expected at least 1"),
        (["--also-serve", "4"], "version 4 cannot be served too"),
        (["--warmup", "nothing.npy"], "nothing.npy"),
        (["--to", "3"], "--rollback"),
    ],
)
def test_wrong_options_are_one_message_and_exit_2(model, root, capsys, options, said):
    assert deploy(model, root, *options) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert not (root / "tiny").exists()


def test_check_finds_problems_offline_and_exits_1(model, root, capsys):
    deploy(model, root)
    assert main.run(["serve", str(root), "--check"]) == 0
    path = root / "tiny/config.pbtxt"
    path.write_text(path.read_text().replace("[16, 2]", "[16, 3]"))
    capsys.readouterr()
    assert main.run(["serve", str(root), "--check"]) == 1
    assert "output 'embedding': dims expected [16, 2], got [16, 3]" in capsys.readouterr().err


def test_dry_runs_print_the_command_and_start_nothing(model, root, capsys):
    deploy(model, root)
    capsys.readouterr()
    assert main.run(["serve", str(root), "--container", "--dry-run", "--grpc-port", "9001"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("docker run --rm")
    assert "127.0.0.1:9001:8001" in out
    assert f"{root}:/models:ro" in out


def test_serve_without_weights_exits_2_and_says_what_to_do(model, root, capsys):
    deploy(model, root)
    (root / "tiny/1/model.onnx").unlink()
    capsys.readouterr()
    assert main.run(["serve", str(root)]) == 2
    assert f"rtool deploy {model} --name tiny" in capsys.readouterr().err
