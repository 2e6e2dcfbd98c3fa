"""What a model's embeddings are kept by: its content, whatever its name, path or time."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import load_model, onnx2torch
from rtool.converters.runtime.triton import DIGESTS_KEY, TritonModel
from rtool.errors import InputError
from rtool.finetune.embedding.embedders import open_embedder
from rtool.finetune.embedding.model_digest import digest_of_model


def write_model(path, seed=0):
    weight = np.random.default_rng(seed).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weight"], ["maps"]),
            helper.make_node("GlobalAveragePool", ["maps"], ["out"]),
        ],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 4, 1, 1])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def digest(reference, **options):
    return open_embedder(reference, preprocessing="imagenet", **options).digest()


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.onnx")


def test_a_file_is_its_bytes(model, tmp_path):
    copy = shutil.copy(model, tmp_path / "other_name.onnx")
    os.utime(copy, (1, 1))
    assert digest(copy) == digest(model)
    assert digest(write_model(tmp_path / "changed.onnx", seed=1)) != digest(model)


def test_external_data_counts(tmp_path):
    found = []
    for seed in (0, 1, 0):
        folder = tmp_path / str(len(found))
        folder.mkdir()
        proto = onnx.load(write_model(folder / "model.onnx", seed))
        onnx.save(proto, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
        found.append(digest(folder / "model.onnx"))
    assert found[0] == found[2] != found[1]


def test_weights_that_are_loaded_over_a_model_count(model, tmp_path):
    module = load_model(model).module
    torch.save(module.state_dict(), tmp_path / "same.pth")
    torch.save({name: tensor + 1 for name, tensor in module.state_dict().items()}, tmp_path / "other.pth")
    same = digest(model, weights=tmp_path / "same.pth")
    assert same == digest(model, weights=shutil.copy(tmp_path / "same.pth", tmp_path / "renamed.pth"))
    assert same != digest(model, weights=tmp_path / "other.pth")


def test_a_bundle_is_its_content(model, tmp_path):
    onnx2torch(model, tmp_path / "a.rtool")
    shutil.copytree(tmp_path / "a.rtool", tmp_path / "b.rtool")
    assert digest(tmp_path / "a.rtool") == digest(tmp_path / "b.rtool")
    onnx2torch(write_model(tmp_path / "changed.onnx", seed=1), tmp_path / "c.rtool")
    assert digest(tmp_path / "c.rtool") != digest(tmp_path / "a.rtool")


def test_a_name_of_the_zoo_is_its_weights():
    model = load_model("osnet_x0_25")
    before = digest_of_model(model)
    assert digest_of_model(model) == before
    with torch.no_grad():
        next(model.module.parameters()).view(-1)[0] += 1
    assert digest_of_model(model) != before


def test_a_torch_file_is_its_bytes(tmp_path):
    for name, scale in (("a.pt", 1.0), ("b.pt", 2.0)):
        layer = torch.nn.Conv2d(3, 4, 3)
        torch.nn.init.constant_(layer.weight, scale)
        torch.nn.init.zeros_(layer.bias)
        torch.jit.trace(layer.eval(), torch.zeros(1, 3, 8, 4)).save(tmp_path / name)
    shutil.copy(tmp_path / "a.pt", tmp_path / "copy.pt")
    assert digest(tmp_path / "a.pt", size=(8, 4)) == digest(tmp_path / "copy.pt", size=(8, 4))
    assert digest(tmp_path / "a.pt", size=(8, 4)) != digest(tmp_path / "b.pt", size=(8, 4))


def test_a_model_in_memory_has_none():
    runner = SimpleNamespace(name="mine", inputs=(), outputs=(), batch=None, run=None)
    with pytest.raises(InputError, match="mine: is a model in memory"):
        open_embedder(runner, preprocessing="imagenet", size=(8, 4)).digest()


def served(stated, version=None, versions=(3, 4)):
    model = object.__new__(TritonModel)
    model.version, model.versions = version, versions
    model.parameters = {} if stated is None else {DIGESTS_KEY: stated}
    model._call = SimpleNamespace(place="model 'm' on 127.0.0.1:8001")
    return model.served_digest


def test_a_served_model_is_the_file_that_its_deployment_names():
    stated = f'{{"3": "{"a" * 64}", "4": "{"b" * 64}"}}'
    assert served(stated)() == "b" * 64
    assert served(stated, version=3)() == "a" * 64


@pytest.mark.parametrize("stated", [None, "{", "[]", '{"4": 7}', '{"4": "short"}', f'{{"3": "{"a" * 64}"}}'])
def test_a_served_model_that_states_none_is_refused_with_the_reason(stated):
    with pytest.raises(InputError, match=r"does not state which file it serves as version 4 .*rtool deploy"):
        served(stated)()
