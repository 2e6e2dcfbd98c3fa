"""`inspect` tells what is in a file: counts are those of the network, and problems are named."""

import hashlib

import onnx
import pytest
import torch

from rtool.converters import export, inspect, onnx2torch
from rtool.converters.zoo.registry import build_architecture
from rtool.errors import InputError


def test_counts_of_a_fused_export(exported, tmp_path):
    _, proto = exported("cnn", "ts", 13)
    path = tmp_path / "small.onnx"
    path.write_bytes(proto.SerializeToString())
    found = inspect(path)
    assert found.batch == "dynamic"
    assert found.fixed_batch_places == ()
    assert found.inputs[0].shape == ("N", 3, 16, 8)
    assert found.operators["Conv"] == 13
    assert found.batchnorms.fused == 5
    assert found.batchnorms.present == 1
    assert found.precision == "float32"
    assert found.opsets == {"": 13}
    assert found.problems == ()


def test_multiply_accumulates_are_those_of_the_layers(exported, tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(exported("cnn", "ts", 13)[1].SerializeToString())
    stem = 8 * 3 * 9 * 8 * 4
    branches = 2 * (8 * 8 * 4 * 2 + 8 * 9 * 4 * 2 + 2 * (8 * 2 + 2 * 8))
    assert inspect(path).macs == stem + branches + 64 * 6


def test_costs_that_depend_on_open_sizes_are_unknown(exported, tmp_path):
    proto = exported("cnn", "ts", 13)[1]
    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    for axis in (2, 3):
        opened.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    del opened.graph.value_info[:]
    path = tmp_path / "open.onnx"
    path.write_bytes(opened.SerializeToString())
    found = inspect(path)
    assert found.macs is None
    assert found.activations is None


def test_a_baked_in_batch_is_found_with_its_places(exported, tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(exported("cnn", "ts", 11, 4)[1].SerializeToString())
    found = inspect(path)
    assert found.batch == 4
    assert found.fixed_batch_places[0] == "input 'x'"
    assert any("Reshape to [4, -1]" in place for place in found.fixed_batch_places)


def test_batchnorms_that_cannot_be_folded_are_named(tmp_path):
    module = build_architecture("iresnet18", input_size=(32, 32)).eval()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.bias)  # zero padding makes a shifted input unfoldable
    path = tmp_path / "face.onnx"
    torch.onnx.export(module, torch.randn(1, 3, 32, 32), path, dynamo=False, opset_version=13)
    assert inspect(path).batchnorms.unfoldable is None
    found = inspect(path, verify=True)
    assert found.architecture == "iresnet18"
    assert len(found.batchnorms.unfoldable) > 0


def test_bundles_and_zoo_names_are_inspected_too(model_file, tmp_path):
    bundle = onnx2torch(model_file, tmp_path / "m.rtool")
    found = inspect(bundle.output)
    assert found.kind == "bundle"
    assert found.sha256 == bundle.sha256
    assert inspect("osnet_x0_25").parameters > 200_000
    with pytest.raises(InputError, match="no such file"):
        inspect("nothing_like_this")


def test_files_of_torch_are_inspected_as_what_they_are(tmp_path):
    module, x = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval(), torch.zeros(2, 3, 8, 8)
    torch.jit.save(torch.jit.trace(module, x), tmp_path / "small.pt")
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "small.pt2")
    script, program = inspect(tmp_path / "small.pt"), inspect(tmp_path / "small.pt2")
    assert script.kind == "torchscript"
    assert script.operators == {"Conv2d": 1, "ReLU": 1}
    assert program.kind == "exported"
    assert program.operators == {"conv2d": 1, "relu": 1}
    assert program.batch == 2
    assert script.parameters == program.parameters == 4 * 3 * 9 + 4


def test_running_statistics_are_no_parameters(exported, tmp_path):
    """Training changes weights; the mean and variance of a BatchNorm that is still there are counted beside them."""
    original, proto = exported("cnn", "ts", 13, "dynamic", False)
    path = tmp_path / "unfused.onnx"
    path.write_bytes(proto.SerializeToString())
    found = inspect(path)
    statistics = [buffer for name, buffer in original.named_buffers() if "running" in name]
    assert found.parameters == sum(parameter.numel() for parameter in original.parameters())
    assert found.buffers == sum(buffer.numel() for buffer in statistics) > 0


def test_the_history_goes_from_the_source_to_the_export(model_file, tmp_path, images):
    batches = [torch.from_numpy(images(count)) for count in (8, 9)]
    bundle = onnx2torch(model_file, tmp_path / "m.rtool", restore_bn=True, calibrate=batches).output
    steps = [link.step for link in inspect(bundle).chain]
    assert steps == ["source", "converted", "BatchNorm restored"]
    source, converted, restored = inspect(bundle).chain
    assert source.facts["sha256"] == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert converted.facts["versions"]["torch"] == str(torch.__version__)
    assert max(converted.facts["parity_max_rel"].values()) <= 1e-5
    assert (restored.facts["images"], len(restored.facts["images_sha256"])) == (17, 64)
    assert inspect(bundle).batchnorms.restored == restored.facts["batchnorms"] == 5
    written = export(bundle, tmp_path / "m.onnx").path
    chain = inspect(written).chain
    assert [link.step for link in chain] == [*steps, "exported"]
    assert [step["step"] for step in chain[-1].facts["parity"]] == ["write-back"]
    assert chain[-1].facts["measured_on"]["random"] is True
    again = onnx2torch(written, tmp_path / "again.rtool").output
    assert [link.step for link in inspect(again).chain] == [*steps, "exported", "source", "converted"]
    assert not any(str(tmp_path) in str(link) for link in inspect(again).chain)


def test_a_damaged_history_is_no_obstacle(exported, tmp_path):
    _, proto = exported("cnn", "ts", 13)
    for text in ("not json", '{"a": 1}', '[1, {"step": "x", "facts": 3}]'):
        onnx.helper.set_model_props(proto, {"rtool.chain": text})
        path = tmp_path / "small.onnx"
        path.write_bytes(proto.SerializeToString())
        assert len(inspect(path).chain) == 1


def test_a_graph_that_takes_pixels_needs_no_preprocessing_stated(tmp_path):
    path = tmp_path / "pixels.onnx"
    export("examples/models/osnet_x0_25_synthetic.onnx", path, embed_preprocessing=True)
    assert inspect(path).preprocessing_origin == "in the graph, which takes uint8 pixels"
