"""A rewritten batch gives, at every size, what the source gives image by image; what cannot be proved is refused."""

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtool.converters import set_batch
from rtool.errors import InputError


class MergedRows(nn.Module):
    """Tokens: rows of all images merged into one axis and parted again, with a class token and positions."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, 5, dim))
        self.mix, self.head = nn.Linear(dim, dim), nn.Linear(dim, 6)

    def forward(self, x):
        n = x.shape[0]
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(n, 1, 8), tokens], 1) + self.positions
        rows = self.mix(tokens.reshape(n * 5, 8)).relu().reshape(n, 5, 8)
        return self.head(rows[:, 0])


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))


def exported(module: nn.Module, batch: int, *, dynamic: bool = False) -> onnx.ModelProto:
    """A TorchScript export with the batch baked into input, Reshape and Expand."""
    torch.manual_seed(0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.randn(batch, 3, 8, 8),),
            file,
            dynamo=False,
            opset_version=13,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}} if dynamic else None,
        )
    return onnx.load_from_string(file.getvalue())


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": images}
    )[0]


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("build", [plain, MergedRows])
@pytest.mark.parametrize("baked", [1, 2, 16])
def test_a_baked_batch_becomes_dynamic(build, baked):
    module = build()
    rewritten = set_batch(exported(module, baked), "dynamic")
    onnx.checker.check_model(rewritten, full_check=True)
    for shape in (rewritten.graph.input[0], rewritten.graph.output[0]):
        assert shape.type.tensor_type.shape.dim[0].dim_param == "batch"
    for size in (1, 2, 3, 5, 16):
        with torch.no_grad():
            expected = module(torch.from_numpy(images(size))).numpy()
        assert np.abs(run(rewritten, images(size)) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("build", [plain, MergedRows])
@pytest.mark.parametrize(("source", "target"), [(1, 16), (16, 1), (2, 3), ("dynamic", 4)])
def test_a_batch_becomes_another_fixed_one(build, source, target):
    module = build()
    model = exported(module, 2, dynamic=True) if source == "dynamic" else exported(module, source)
    rewritten = set_batch(model, target)
    onnx.checker.check_model(rewritten, full_check=True)
    for shape in (rewritten.graph.input[0], rewritten.graph.output[0]):
        assert shape.type.tensor_type.shape.dim[0].dim_value == target
    with torch.no_grad():
        expected = module(torch.from_numpy(images(target))).numpy()
    assert np.abs(run(rewritten, images(target)) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("target", ["dynamic", 5])
def test_constants_that_gave_way_are_gone(target):
    source = exported(MergedRows(), 2)
    source.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "never read, and not ours"))
    rewritten = set_batch(source, target)
    read = {name for node in rewritten.graph.node for name in node.input}
    assert [tensor.name for tensor in rewritten.graph.initializer if tensor.name not in read] == [
        "never read, and not ours"
    ]


def test_the_source_stays_and_nothing_is_rewritten_without_need():
    model = exported(plain(), 2)
    before = model.SerializeToString()
    assert set_batch(model, 2).SerializeToString() == before
    set_batch(model, "dynamic")
    assert model.SerializeToString() == before
    dynamic = exported(plain(), 2, dynamic=True)
    assert set_batch(dynamic, "dynamic").SerializeToString() == dynamic.SerializeToString()


def mixing_images() -> onnx.ModelProto:
    """Subtracts the batch's mean: an image's output depends on its neighbours."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "mixing", shape[:1], shape[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def one_weight_an_image() -> onnx.ModelProto:
    """A weight with a row for each of the two images."""
    weight = numpy_helper.from_array(np.float32([[1, 2, 3], [4, 5, 6]]), "w")
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "rows", shape[:1], shape[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("build", [mixing_images, one_weight_an_image])
def test_what_cannot_be_proved_is_refused(build):
    with pytest.raises(InputError, match="cannot be proved"):
        set_batch(build(), "dynamic")


@pytest.mark.parametrize("batch", [0, -1, True, 1.5, "many"])
def test_a_batch_is_a_positive_number_or_dynamic(batch):
    with pytest.raises(InputError, match="positive number or 'dynamic'"):
        set_batch(exported(plain(), 2), batch)
