"""The committed repository works as committed: correct without weights, and servable once they are made."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2

import rtool
from rtool.serving import deploy, validate_repository
from rtool.serving.repository.config_rules import check_settings, check_warmup
from rtool.serving.repository.validation import placeholders, servable_models

COMMITTED = Path(rtool.__file__).parent / "model_repository"
MODELS = sorted(path.parent.name for path in COMMITTED.glob("*/config.pbtxt"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The repository as a clone has it: no weights, nothing that publishing leaves."""
    ignored = shutil.ignore_patterns("*.onnx", ".rtool.lock", "history", "__pycache__")
    return Path(shutil.copytree(COMMITTED, tmp_path / "model_repository", ignore=ignored))


def test_a_fixed_batch_a_dynamic_batch_and_a_packer_are_there():
    assert set(MODELS) == {"arcface", "osnet_x0_25_b16", "reid_embed"}


@pytest.mark.parametrize("name", MODELS)
def test_every_configuration_is_sound_and_its_warm_up_complete(root, name):
    for path in (root / name / "config.pbtxt", *(root / name / "configs").glob("*.pbtxt")):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        assert list(check_settings(config, name)) == []
        assert list(check_warmup(config, root / name)) == []


def test_a_clone_says_which_weights_are_missing_and_how_to_make_them(root):
    said = "\n".join(str(problem) for problem in placeholders(root))
    assert "rtool deploy examples/models/osnet_x0_25_synthetic.onnx --name osnet_x0_25_b16 --batch 16" in said
    assert "rtool deploy YOUR_ARCFACE.onnx --name arcface --batch dynamic" in said


def test_the_manifest_describes_the_example_model_of_this_repository():
    example = Path(rtool.__file__).parent / "examples/models/osnet_x0_25_synthetic.onnx"
    manifest = json.loads((COMMITTED / "osnet_x0_25_b16/1/manifest.json").read_text())
    digest = hashlib.sha256(example.read_bytes()).hexdigest()
    assert manifest["sha256"] == digest, f"publish it again in a clean checkout: {manifest['command']}"


def test_a_model_of_the_committed_shape_fills_its_placeholder_and_keeps_the_configuration(root, tmp_path):
    folder = root / "osnet_x0_25_b16"
    config = (folder / "config.pbtxt").read_text()
    manifest = json.loads((folder / "1/manifest.json").read_text())
    model = pooled_model(tmp_path / "osnet.onnx", manifest)
    result = deploy(model, name="osnet_x0_25_b16", batch=16, repository=root, force=True)
    assert result.version == 1
    committed = json.loads((COMMITTED / "osnet_x0_25_b16/1/manifest.json").read_text())["sha256"]
    assert (folder / "config.pbtxt").read_text() == config.replace(committed, result.sha256)
    assert servable_models(root) == ("osnet_x0_25_b16", "reid_embed")
    assert validate_repository(root, ["osnet_x0_25_b16"]) == ()


def test_the_committed_packer_is_the_one_that_is_published(root, tmp_path):
    backends = Path(rtool.__file__).parent / "serving/backends"
    assert (root / "reid_embed/1/model.py").read_text() == (backends / "packer.py").read_text()
    assert (root / "reid_embed/1/triton_tensors.py").read_text() == (backends / "triton_tensors.py").read_text()
    manifest = json.loads((root / "reid_embed/1/manifest.json").read_text())
    assert manifest["sha256"] == {
        name: hashlib.sha256((root / "reid_embed/1" / name).read_bytes()).hexdigest()
        for name in ("model.py", "triton_tensors.py")
    }


def pooled_model(path: Path, manifest: dict) -> Path:
    """The smallest graph with the inputs and outputs that the manifest promises."""
    (images,), (embedding,) = manifest["inputs"], manifest["outputs"]
    weights = np.ones((images["shape"][1], embedding["shape"][1]), np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", [images["name"]], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("MatMul", ["vector", "weights"], [embedding["name"]]),
    ]
    graph = helper.make_graph(
        nodes,
        "pooled",
        [helper.make_tensor_value_info(images["name"], TensorProto.FLOAT, images["shape"])],
        [helper.make_tensor_value_info(embedding["name"], TensorProto.FLOAT, embedding["shape"])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
