"""Generated source reads as people write it: nested classes, one for equal blocks, chains as `nn.Sequential`."""

import io
import types
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rtool.converters import onnx_to_torch
from rtool.converters.bundles.codegen.helpers import helper_sources
from rtool.converters.bundles.codegen.module_source import generate_source
from rtool.converters.lowering.exact.axes import reshape_to
from rtool.converters.records.record import require_record


@pytest.mark.parametrize(("kind", "block"), [("ts", "Layer1Block"), ("dy", "Branches")])
def test_equal_siblings_share_one_class_and_chains_are_sequential(exported, kind, block):
    text = generate_source(onnx_to_torch(exported("cnn", kind, 20 if kind == "dy" else 13)[1]))
    assert f"self.layer1 = nn.Sequential({block}(), {block}())" in text
    assert text.count(f"class {block}") == 1
    assert "self.stem = nn.Sequential(nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1), nn.ReLU())" in text
    assert text.count("self.gate(") == 2


def test_the_classes_nest_as_the_names_do(exported):
    text = generate_source(onnx_to_torch(exported("vit", "dy", 20)[1]))
    order = [line.split()[1].partition("(")[0] for line in text.splitlines() if line.startswith("class ")]
    assert order == ["Block", "Model"]
    assert "self.blocks = nn.Sequential(Block(), Block())" in text


def test_restored_batchnorms_and_odd_names_are_written_too(exported, images):
    module = onnx_to_torch(exported("cnn", "ts", 13)[1])
    from rtool.converters import restore_batchnorm

    restore_batchnorm(module, [torch.from_numpy(images(8))])
    generated = types.ModuleType("generated")
    exec(compile(generate_source(module), "model.py", "exec"), generated.__dict__)
    model = generated.Model().eval()
    model.load_state_dict(module.state_dict())
    x = torch.from_numpy(images(2))
    with torch.no_grad():
        assert torch.equal(model(x), module(x))


class Stage(nn.Module):
    """A residual block; only the numbers differ from stage to stage."""

    def __init__(self, inputs, middle, outputs, stride, kernel):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, middle, 1)
        self.bn = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1)
        self.short = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return torch.relu(self.conv3(torch.relu(self.conv2(torch.relu(self.bn(self.conv1(x)))))) + self.short(x))


def generated_from(module):
    """The converted module, the text generated for it, and the namespace it makes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"dynamo": False, "opset_version": 17, "training": torch.onnx.TrainingMode.PRESERVE}
        torch.onnx.export(module.eval(), (torch.randn(2, 3, 16, 8),), file, **options)
    converted = onnx_to_torch(onnx.load_from_string(file.getvalue()))
    text = generate_source(converted)
    namespace = types.ModuleType("generated")
    exec(compile(text, "model.py", "exec"), namespace.__dict__)
    return converted, text, namespace


def test_blocks_that_differ_in_numbers_share_a_class_that_takes_them():
    stages = nn.Sequential(Stage(3, 4, 8, 2, 3), Stage(8, 6, 8, 1, 3), Stage(8, 4, 5, 2, 3), Stage(5, 5, 5, 1, 3))
    converted, text, namespace = generated_from(nn.Sequential(stages, nn.Conv2d(5, 2, 1)))
    assert text.count("\nclass ") == 2
    assert "def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, stride: int) -> None:" in text
    depthwise = "hidden_channels, hidden_channels, kernel_size=3, stride=stride, padding=1, groups=hidden_channels"
    assert f"self.conv2 = nn.Conv2d( {depthwise} )" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 120
    assert "self.bn = nn.BatchNorm2d(hidden_channels)" in text
    assert "self.short = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride)" in text
    assert "Block(3, 4, 8, stride=2)" in text
    assert "Block(5, 5, 5, stride=1)" in text
    model = namespace.Model().eval()
    model.load_state_dict(converted.state_dict())
    x = torch.randn(2, 3, 16, 8)
    with torch.no_grad():
        assert torch.equal(model(x), converted(x))


def test_numbers_that_are_the_default_for_some_are_arguments_too_and_constant_ones_are_written_out():
    stages = nn.Sequential(Stage(3, 3, 3, 1, 1), Stage(3, 5, 3, 1, 5), Stage(3, 3, 3, 1, 1))
    _, text, namespace = generated_from(nn.Sequential(stages, nn.Conv2d(3, 2, 1)))
    assert "def __init__(self, hidden_channels: int, kernel_size: int, padding: int) -> None:" in text
    assert "nn.Conv2d(3, hidden_channels, kernel_size=1)" in text
    assert namespace.Model().get_submodule("0.1.conv2").kernel_size == (5, 5)
    assert namespace.Model().get_submodule("0.2.conv2").padding == (0, 0)


def norm_model(operator, opset, **attributes):
    """A file with one normalisation over [N, 8, 8] or [N, 8], and its scale (and offset) by name."""
    shape = (8, 8) if operator == "LayerNormalization" else (8,)
    draw = np.random.default_rng(0).standard_normal
    names = ["norm.weight", "norm.bias"][: 1 + (operator == "LayerNormalization")]
    weights = [onnx.numpy_helper.from_array(draw(shape).astype(np.float32), name) for name in names]
    node = onnx.helper.make_node(operator, ["x", *names], ["y"], name=f"/norm/{operator}", **attributes)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "norm", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-3])
def test_rms_norm_keeps_its_epsilon(scale):
    module = onnx_to_torch(norm_model("RMSNormalization", 23))  # epsilon 1e-5: ONNX's default, not torch's
    namespace = {}
    exec(generate_source(module), namespace)
    model = namespace["Model"]().eval()
    model.load_state_dict(module.state_dict())
    x = (np.random.default_rng(1).standard_normal((4, 8)) * scale).astype(np.float32)
    wide = x.astype(np.float64)
    weight = module.state_dict()["norm.weight"].numpy()
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight
    with torch.no_grad():
        got = model(torch.from_numpy(x)).numpy()
    assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()


def test_layer_norm_over_two_equal_axes_keeps_both():
    module = onnx_to_torch(norm_model("LayerNormalization", 17, axis=-2))
    namespace = {}
    exec(generate_source(module), namespace)
    model = namespace["Model"]().eval()
    model.load_state_dict(module.state_dict())
    x = torch.randn(3, 8, 8)
    wide = x.double()
    centred = wide - wide.mean((1, 2), keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean((1, 2), keepdim=True) + 1e-5)
    expected = scaled * module.state_dict()["norm.weight"] + module.state_dict()["norm.bias"]
    with torch.no_grad():
        assert (model(x) - expected).abs().max() <= 1e-5


def test_helpers_come_with_what_they_need():
    namespace = {"torch": torch}
    exec("import torch.nn.functional as F\nfrom torch import Tensor, nn\nfrom typing import List", namespace)
    for part in helper_sources([reshape_to]):
        exec(part, namespace)
    x = torch.arange(6.0).reshape(2, 3)
    assert namespace["reshape_to"](x, [0, 3, 1], False).shape == (2, 3, 1)
    assert helper_sources([torch.relu]) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_precision_keep_it_in_the_written_module(exported, images, dtype):
    module = onnx_to_torch(exported("cnn", "ts", 13)[1]).to(dtype)
    namespace = {}
    exec(generate_source(module), namespace)
    alone = namespace["Model"]()
    assert {tensor.dtype for tensor in alone.state_dict().values() if tensor.is_floating_point()} == {dtype}
    alone.load_state_dict(module.state_dict())
    x = torch.from_numpy(images(2)).to(dtype)
    with torch.no_grad():
        assert torch.equal(alone.eval()(x), module(x))


@pytest.mark.parametrize("name", ['a"""b', "a\\N", "new\nline", 'x"""\nraise SystemExit(3)\n"""', 'end"', "end\\"])
def test_a_file_name_stays_inside_the_docstring(exported, name):
    module = onnx_to_torch(exported("cnn", "ts", 13)[1])
    require_record(module).source = f"{name}.onnx"
    namespace = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(generate_source(module), namespace)
    assert name in namespace["__doc__"]


class Named(nn.Module):
    """Members whose classes would be called as what the file imports, and a helper."""

    def __init__(self, *names):
        super().__init__()
        for name in names:
            self.add_module(name, Stage(3, 4, 3, 1, 3))

    def forward(self, x):
        for stage in self.children():
            x = torch.relu(stage(x))
        return x


def test_classes_hide_nothing_that_the_file_needs():
    converted, text, namespace = generated_from(Named("f", "tensor"))
    assert "class F(" not in text
    converted, text, namespace = generated_from(nn.Sequential(Named("tensor", "none"), Named("model", "list")))
    x = torch.randn(2, 3, 16, 8)
    model = namespace.Model().eval()
    model.load_state_dict(converted.state_dict())
    with torch.no_grad():
        assert torch.equal(model(x), converted(x))


@pytest.mark.parametrize("kind", ["unread", "returned", "twice"])
def test_tensors_that_are_returned_or_read_twice(kind):
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).standard_normal((4,)).astype(np.float32), "scale.w")
    nodes = {
        "unread": [onnx.helper.make_node("Relu", ["x"], ["y"]), onnx.helper.make_node("Identity", ["scale.w"], ["z"])],
        "returned": [
            onnx.helper.make_node("Mul", ["x", "scale.w"], ["y"]),
            onnx.helper.make_node("Identity", ["y"], ["z"]),
        ],
        "twice": [
            onnx.helper.make_node("Mul", ["x", "scale.w"], ["y"]),
            onnx.helper.make_node("Add", ["y", "scale.w"], ["z"]),
        ],
    }[kind]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "yz"]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])
    graph = onnx.helper.make_graph(nodes, "g", [x], ends, [weight])
    module = onnx_to_torch(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    )
    namespace = {}
    exec(generate_source(module), namespace)
    model = namespace["Model"]()
    model.load_state_dict(module.state_dict())
    sample = torch.randn(3, 4)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(sample), module(sample), strict=True))


class Residual(nn.Module):
    """Equal members of a list that is no chain, and of one that is, each with `layers` in a row."""

    def __init__(self, layers):
        super().__init__()

        def member():
            made = [nn.Conv2d(4, 4, (3, 1), padding=(1, 0)) for _ in range(layers)]
            return nn.Sequential(*(part for conv in made for part in (conv, nn.PReLU(4))))

        self.blocks = nn.ModuleList(member() for _ in range(3))
        self.tail = nn.ModuleList([nn.Conv2d(4, 4, 1), *(member() for _ in range(4))])

    def forward(self, x):
        for layer in (*self.blocks, *self.tail):
            x = x + layer(x)
        return x


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 8])
def test_equal_members_are_written_once_whatever_their_length(layers, tmp_path):
    network, x = Residual(layers).eval(), torch.randn(2, 4, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), str(tmp_path / "m.onnx"), dynamo=False)
    module = onnx_to_torch(tmp_path / "m.onnx")
    text = generate_source(module)
    assert "for _ in range(3)" in text
    assert max(map(len, text.splitlines())) < 160
    generated = types.ModuleType("generated")
    exec(compile(text, "model.py", "exec"), generated.__dict__)
    model = generated.Model().eval()
    model.load_state_dict(module.state_dict())
    with torch.no_grad():
        assert torch.equal(model(x), module(x))
