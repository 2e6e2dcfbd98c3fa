"""A bundle inspected from its files says what torch says of it, and is refused where torch would refuse it."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from rtool.converters import inspect, load_bundle, onnx2torch
from rtool.converters.records.preprocessing import IMAGENET
from rtool.errors import InputError


@pytest.fixture
def bundle(exported, tmp_path, images):
    _, proto = exported("cnn", "ts", 13, "dynamic", True)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    batches = [torch.from_numpy(images(count)) for count in (8, 9)]
    return onnx2torch(tmp_path / "m.onnx", tmp_path / "m.rtool", restore_bn=True, calibrate=batches).output


def test_numbers_are_those_of_the_module(bundle, tmp_path):
    found, module = inspect(bundle), load_bundle(bundle).module
    floats = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters()) > 0
    assert found.buffers == sum(buffer.numel() for buffer in floats) > 0
    source = inspect(tmp_path / "m.onnx")
    assert found.batchnorms.restored == len(load_bundle(bundle).record.restored) > 0
    assert (found.sha256, found.operators, found.macs) == (source.sha256, source.operators, source.macs)
    assert (found.inputs, found.architecture, found.problems) == (source.inputs, source.architecture, source.problems)


def test_a_bundle_of_an_earlier_version_is_inspected_by_torch_with_the_same_result(bundle):
    new = inspect(bundle)
    info = json.loads((bundle / "bundle.json").read_text())
    del info["buffers"]
    (bundle / "bundle.json").write_text(json.dumps(info))
    assert replace(inspect(bundle), size_bytes=new.size_bytes) == new


def test_the_stored_preprocessing_is_reported(bundle):
    info = json.loads((bundle / "bundle.json").read_text())
    stated = replace(IMAGENET, height=16, width=8)
    (bundle / "bundle.json").write_text(json.dumps({**info, "preprocessing": stated.to_dict()}))
    assert inspect(bundle).preprocessing == stated


def without_the_first(path):
    tensors = load_file(path / "weights.safetensors")
    save_file(dict(list(tensors.items())[1:]), path / "weights.safetensors")


def with_one_more(path):
    tensors = load_file(path / "weights.safetensors")
    save_file({**tensors, "stranger": torch.zeros(2)}, path / "weights.safetensors")


def with_another_shape(path):
    tensors = load_file(path / "weights.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    save_file({**tensors, name: tensors[name][:1].contiguous()}, path / "weights.safetensors")


def cut(path):
    data = (path / "weights.safetensors").read_bytes()
    (path / "weights.safetensors").write_bytes(data[: len(data) // 2])


def with_a_huge_header(path):
    data = (path / "weights.safetensors").read_bytes()
    (path / "weights.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + data[8:])


def without_weights(path):
    (path / "weights.safetensors").unlink()


def with_a_list_of_restored(path):
    info = json.loads((path / "bundle.json").read_text())
    (path / "bundle.json").write_text(json.dumps({**info, "restored": [3]}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_the_first, "does not fit the graph: missing"),
        (with_one_more, r"unexpected \['stranger'\]"),
        (with_another_shape, r"weight '.*' needs \d+ bytes"),
        (cut, "cannot be read"),
        (with_a_huge_header, "cannot be read"),
        (without_weights, "cannot be read"),
        (with_a_list_of_restored, "not as rtool writes it"),
    ],
)
def test_damaged_files_are_refused_as_when_the_bundle_is_loaded(bundle, damage, message):
    damage(bundle)
    with pytest.raises(InputError, match=message):
        inspect(bundle)
    with pytest.raises(InputError):
        load_bundle(bundle)
