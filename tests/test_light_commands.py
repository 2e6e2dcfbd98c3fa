"""Commands that answer at once load neither torch nor a runtime: their process tells what it imported."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

import rtool

HEAVY = {
    *("torch", "onnxruntime", "onnx_ir", "onnxscript", "onnxslim", "onnxsim", "scipy", "sklearn", "matplotlib"),
    *("safetensors", "tritonclient", "tensorboard", "jinja2"),
}
TELLS = f"""
import sys
from rtool.cli.main import run
code = run(sys.argv[1:])
heavy = sorted(set(sys.modules) & {HEAVY!r})
sys.exit("heavy: " + " ".join(heavy) if heavy else code)
"""
DEMO = str(Path(rtool.__file__).resolve().parent / "examples/models/osnet_x0_25_synthetic.onnx")


def light(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TELLS, *command], capture_output=True, text=True, cwd=folder, env=dict(os.environ)
    )


def test_what_a_heavy_command_imports_is_told(tmp_path):
    assert "torch" in light("onnx2torch", "absent.onnx", folder=tmp_path).stderr.rpartition("heavy: ")[2].split()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return str(rtool.onnx2torch(DEMO, tmp_path_factory.mktemp("bundle") / "demo.rtool").output)


@pytest.mark.parametrize("name", ["m.pt", "m.pt2"])
def test_inspecting_a_file_of_torch_loads_nothing_heavy(name, tmp_path):
    module, images = torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)
    if name == "m.pt":
        torch.jit.save(torch.jit.trace(module, images), tmp_path / name)
    else:
        torch.export.save(torch.export.export(module, (images,)), tmp_path / name)
    done = light("inspect", name, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "112 float32" in done.stdout


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_inspecting_a_bundle_loads_nothing_heavy(bundle, more, tmp_path):
    done = light("inspect", bundle, *more, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "osnet_x0_25" in done.stdout


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["inspect", "--help"], 0),
        (["no-such-command"], 2),
        (["export", DEMO, "--no-such-option"], 2),
        (["inspect", DEMO], 0),
        (["inspect", DEMO, "--json"], 0),
        (["inspect", "osnet_x1_0"], 0),
        (["inspect", "osnet_x1"], 2),
        (["inspect", "absent.onnx"], 2),
        (["ops"], 0),
        (["ops", "Resize", "--json"], 0),
        (["ops", "Resise"], 2),
        (["config", "show"], 0),
        (["config", "show", "--losses"], 0),
        (["doctor"], 0),
        (["finetune", "absent.yaml", "--dry-run"], 2),
        (["finetune", "wrong.yaml", "--dry-run"], 2),
        (["finetune", "missing_model.yaml", "--dry-run"], 2),
        (["finetune", "missing_model.yaml", "epochs=none"], 2),
    ],
    ids=lambda value: " ".join(value).replace(DEMO, "DEMO") if isinstance(value, list) else str(value),
)
def test_light_commands_load_nothing_heavy(command, code, tmp_path):
    (tmp_path / "wrong.yaml").write_text("optimiser: {lr: fast}\n")
    (tmp_path / "missing_model.yaml").write_text("model: {reference: absent.onnx}\n")
    done = light(*command, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_refused_is_refused_as_lightly(tmp_path):
    node = helper.make_node("Relu", ["nowhere"], ["y"])
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    onnx.save(helper.make_model(graph), tmp_path / "cut.onnx")
    done = light("inspect", "cut.onnx", folder=tmp_path)
    assert done.returncode == 2
    assert "'nowhere' is defined nowhere" in done.stderr
