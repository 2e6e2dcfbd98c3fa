"""A rewritten batch gives, at every size, what the source gives image by image; anything else is refused."""

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtool.converters import export, set_batch
from rtool.errors import InputError

from .batch_models import mixing_images, rows_of, run


class MergedRows(nn.Module):
    """Tokens: rows of all images are merged into one axis and split again, with a class token and positions."""

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
    """A TorchScript export with a fixed batch in input, Reshape and Expand."""
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


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("build", [plain, MergedRows])
@pytest.mark.parametrize("fixed", [1, 2, 16])
def test_a_fixed_batch_becomes_dynamic(build, fixed):
    module = build()
    rewritten = set_batch(exported(module, fixed), "dynamic")
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
def test_replaced_constants_are_removed(target):
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


def one_weight_per_image() -> onnx.ModelProto:
    """A weight with a row for each of the two images."""
    weight = numpy_helper.from_array(np.float32([[1, 2, 3], [4, 5, 6]]), "w")
    shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "rows", shape[:1], shape[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("build", [mixing_images, one_weight_per_image])
def test_what_cannot_be_verified_is_refused(build):
    with pytest.raises(InputError, match="cannot be verified"):
        set_batch(build(), "dynamic")


@pytest.mark.parametrize("batch", [0, -1, True, 1.5, "many"])
def test_a_batch_is_a_positive_number_or_dynamic(batch):
    with pytest.raises(InputError, match="positive number or 'dynamic'"):
        set_batch(exported(plain(), 2), batch)


def test_an_open_batch_that_a_reshape_fixes_is_opened_in_truth():
    model = rows_of([helper.make_node("Reshape", ["x", "s"], ["y"])], {"s": np.int64([1, 24])}, ["n", 24])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    values = np.random.default_rng(0).standard_normal((3, 3, 8)).astype(np.float32)
    assert np.array_equal(run(set_batch(model, "dynamic"), values), values.reshape(3, 24))


@pytest.mark.parametrize("symbol", ["n", "dynamic"])
def test_an_open_batch_that_mixes_images_is_refused_whatever_its_name(symbol):
    model = mixing_images()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = symbol
    with pytest.raises(InputError, match="batch dynamic: "):
        set_batch(model, "dynamic")


def test_dynamic_sizes_need_inputs_to_be_verified_with():
    model = rows_of([helper.make_node("Relu", ["x"], ["y"])], {}, [4, 3, "width"])
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "width"
    with pytest.raises(InputError, match="dynamic shape") as caught:
        set_batch(model, "dynamic")
    assert "constant" not in str(caught.value)
    rewritten = set_batch(model, "dynamic", inputs=[np.zeros((1, 3, 6), np.float32)])
    assert run(rewritten, np.ones((2, 3, 7), np.float32)).shape == (2, 3, 7)


def test_an_output_for_all_images_together_is_refused():
    model = rows_of([helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)], {}, [])
    with pytest.raises(InputError, match="single number for all images"):
        set_batch(model, "dynamic")


def two_inputs(first: str | int) -> onnx.ModelProto:
    """Embeddings against a gallery [8, 5] that is an input without a row per image."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["e"]), helper.make_node("MatMul", ["e", "gallery"], ["y"])]
    shapes = {"x": [first, 6], "gallery": [8, 5], "y": [first, 5]}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    weight = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    graph = helper.make_graph(nodes, "g", infos[:2], infos[2:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight_as_first_input() -> onnx.ModelProto:
    """List the initializers among the inputs, as files before IR version 4 do."""
    model = two_inputs("n")
    model.graph.input.insert(0, helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 8]))
    return model


@pytest.mark.parametrize(
    ("source", "batch"),
    [(two_inputs(4), 2), (two_inputs(4), "dynamic"), (two_inputs("n"), 3), (weight_as_first_input(), 2)],
)
@pytest.mark.parametrize("fp16", [False, True])
def test_an_input_without_a_row_per_image_stays_whole(source, batch, fp16, tmp_path):
    onnx.save(source, tmp_path / "in.onnx")
    result = export(tmp_path / "in.onnx", tmp_path / "out.onnx", batch=batch, fp16=fp16)
    assert {"batch", "simplify"} <= {step.name for step in result.steps}
    written = onnx.load(tmp_path / "out.onnx")
    weights = {tensor.name for tensor in written.graph.initializer}
    firsts = [value.type.tensor_type.shape.dim[0] for value in written.graph.input if value.name not in weights]
    assert [dim.dim_value or dim.dim_param for dim in firsts] == ["batch" if batch == "dynamic" else batch, 8]
