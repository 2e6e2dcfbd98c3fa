"""Trained tensors go into the source graph, and nothing else changes."""

import io
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxsim
import onnxslim
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from rtool.converters import onnx_to_torch, restore_batchnorm, write_back
from rtool.converters.weights.writing_back import NoPlaceError
from rtool.converters.zoo.registry import build_architecture
from rtool.errors import InputError


@cache
def exported(name: str, *, trained: bool = True, opset: int = 17) -> onnx.ModelProto:
    """A fused TorchScript export with a dynamic batch, as such models are found."""
    torch.manual_seed(0)
    module = build_architecture(name, input_size=(32, 32))
    if trained:
        with torch.no_grad():
            for parameter in module.parameters():  # equal values would be merged by the exporter
                parameter += 0.02 * torch.randn_like(parameter)
            module(torch.randn(8, 3, 32, 32))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.randn(2, 3, 32, 32),),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_axes={"images": {0: "batch"}, "embedding": {0: "batch"}},
        )
    return onnx.load_from_string(file.getvalue())


def run(proto: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def without_weights(proto: onnx.ModelProto) -> bytes:
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")
    return bare.SerializeToString(deterministic=True)


def train(module: torch.nn.Module, steps: int = 2) -> None:
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        loss = module(torch.randn(8, 3, 32, 32, generator=generator)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    module.eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        *((name, True) for name in ("osnet_x0_25", "iresnet18", "mobilefacenet")),
        *((name, False) for name in ("osnet_x0_25", "mobilefacenet")),  # equal weights, which the exporter merges
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in ("iresnet18", "resnet50")),
        pytest.param("resnet50", True, marks=pytest.mark.slow),
    ],
)
def test_untrained_round_trip_is_the_same_file(name, trained):
    source = exported(name, trained=trained)
    before = source.SerializeToString(deterministic=True)
    result = write_back(onnx_to_torch(source), source)
    assert result.SerializeToString(deterministic=True) == before
    assert source.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", ["osnet_x0_25", "mobilefacenet", pytest.param("iresnet18", marks=pytest.mark.slow)])
def test_training_with_restored_batchnorm_changes_only_weights(name):
    source = exported(name)
    module = onnx_to_torch(source)
    restore_batchnorm(module, [images(8)])
    train(module)
    result = write_back(module, source)
    assert without_weights(result) == without_weights(source)
    changed = sum(
        a.raw_data != b.raw_data for a, b in zip(result.graph.initializer, source.graph.initializer, strict=True)
    )
    assert changed > 20
    with torch.no_grad():
        expected = module(images()).numpy()
    assert np.abs(run(result, images().numpy()) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(run(source, images().numpy()) - expected).max() > 1e-3 * np.abs(expected).max()
    assert any(isinstance(layer, _BatchNorm) for layer in module.modules())  # the module itself is left alone


def test_copies_that_the_exporter_merged_are_parted_when_trained_apart():
    source = exported("osnet_x0_25", trained=False)
    assert any(node.op_type == "Identity" for node in source.graph.node)
    module = onnx_to_torch(source)
    train(module)
    result = write_back(module, source)
    assert len(result.graph.node) == len(source.graph.node)
    onnx.checker.check_model(result, full_check=True)
    with torch.no_grad():
        expected = module(images()).numpy()
    assert np.abs(run(result, images().numpy()) - expected).max() <= 1e-5 * np.abs(expected).max()


class PreActivated(torch.nn.Module):
    """Fresh BatchNorms, whose beta and running mean are equal, as are gamma and running variance."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn2, self.conv2 = torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 3, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.bn2(torch.relu(self.conv1(self.bn1(x)))))


@cache
def preactivated(kind: str) -> onnx.ModelProto:
    """An export in which equal tensors are one, also within a node: [x, weight, bias, bias, weight]."""
    torch.manual_seed(0)
    module, example, file = PreActivated().eval(), torch.randn(2, 3, 32, 32), io.BytesIO()
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["embedding"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "dynamo":
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(module, (example,), file, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        else:
            axes = {"images": {0: "batch"}}
            torch.onnx.export(module, (example,), file, dynamo=False, dynamic_axes=axes, **names)
    proto = onnx.load_from_string(file.getvalue())
    simplifiers = {"onnxslim": onnxslim.slim, "onnxsim": lambda model: onnxsim.simplify(model)[0]}
    return simplifiers[kind](proto) if kind in simplifiers else proto


@pytest.mark.parametrize("kind", ["dynamo", "onnxslim", "onnxsim"])
def test_copies_that_one_node_reads_in_several_places_are_parted(kind):
    source = preactivated(kind)
    norms = [list(node.input[1:]) for node in source.graph.node if node.op_type == "BatchNormalization"]
    assert norms == [["bn1.weight", "bn1.bias", "bn1.bias", "bn1.weight"]] * 2
    module = onnx_to_torch(source)
    assert write_back(module, source).SerializeToString() == source.SerializeToString()
    train(module, steps=3)
    result = write_back(module, source)
    onnx.checker.check_model(result, full_check=True)
    with torch.no_grad():
        expected = module(images()).numpy()
    assert np.abs(run(result, images().numpy()) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(run(source, images().numpy()) - expected).max() > 1e-2 * np.abs(expected).max()


def test_copies_whose_place_cannot_be_told_are_refused():
    """Two unnamed nodes read one weight; after training it is two."""
    source = onnx.ModelProto()
    source.CopyFrom(preactivated("dynamo"))
    for node in source.graph.node:
        node.name = ""
    module = onnx_to_torch(source)
    train(module, steps=1)
    with pytest.raises(NoPlaceError, match="its readers cannot be identified"):
        write_back(module, source)


def test_output_is_written_beside_the_source_but_never_over_it(tmp_path):
    source = tmp_path / "model.onnx"
    onnx.save(exported("osnet_x0_25"), source)
    before = source.read_bytes()
    module = onnx_to_torch(source)
    write_back(module, source, tmp_path / "trained.onnx")
    assert (tmp_path / "trained.onnx").read_bytes() == before
    with pytest.raises(InputError, match="source itself"):
        write_back(module, source, source)
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "trained.onnx"]


def test_weights_in_external_files_come_back_inside(tmp_path):
    proto = exported("osnet_x0_25")
    expected = run(proto, images().numpy())
    split = onnx.load_from_string(proto.SerializeToString())  # saving moves the weights out of the proto
    onnx.save(split, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    module = onnx_to_torch(tmp_path / "model.onnx")
    result = write_back(module, tmp_path / "model.onnx")
    assert np.array_equal(run(result, images().numpy()), expected)
    before = (tmp_path / "weights.bin").read_bytes()
    with pytest.raises(InputError, match="holds weights of the source"):
        write_back(module, tmp_path / "model.onnx", tmp_path / "weights.bin")
    assert (tmp_path / "weights.bin").read_bytes() == before


def test_another_source_is_refused(tmp_path):
    module = onnx_to_torch(exported("osnet_x0_25"))
    with pytest.raises(InputError, match="another architecture"):
        write_back(module, exported("osnet_x0_5"))
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(exported("osnet_x0_25"), first)
    onnx.save(exported("osnet_x0_25", trained=False), second)
    with pytest.raises(InputError, match="not the file"):
        write_back(onnx_to_torch(first), second)


def test_layers_the_source_has_no_place_for_are_refused():
    source = exported("osnet_x0_25")
    module = onnx_to_torch(source)
    module.add_module("classifier", torch.nn.Linear(512, 10))
    with pytest.raises(InputError, match=r"no place for 'classifier\.weight'"):
        write_back(module, source)


def test_plain_modules_are_refused():
    with pytest.raises(InputError, match="torch_to_onnx"):
        write_back(build_architecture("osnet_x0_25"), exported("osnet_x0_25"))
