"""Generated text is executed from memory, before it is saved, and held to the module; names in it can do nothing."""

import re

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import rtool
from rtool.converters import onnx_to_torch
from rtool.converters.bundles import onnx_to_bundle
from rtool.converters.bundles.codegen import check
from rtool.converters.bundles.codegen.check import module_from_source, refuse_unexpected_syntax, written_module
from rtool.converters.bundles.codegen.module_source import generate_source
from rtool.converters.records.record import require_record
from rtool.errors import GateError

HOSTILE = [
    'a"b',
    "a'b",
    'a"""b',
    "new\nline",
    "tab\tand\\back\\slash",
    '__import__("os").system("touch owned")',
    "x); raise SystemExit(3); (",
    "__init__",
    "__class__",
    "__dunder_only",
    "_private",
    "self",
    "super",
    "torch",
    "nn",
    "F",
    "Tensor",
    "Model",
    "List",
    "lambda",
    "None",
    "match",
    "print",
    "int",
    "forward",
    "input",
    "exec",
    "getattr",
    "weight",
    "reshape_to",
    "append",
    "0",
    "007",
    "1047",
    "é",
    "ﬁ",
    "Ⅻ",
    "名前",
    "{0}",
    "%s",
    "\x00",
    "…",
]


def hostile_model(name):
    """Two blocks of a Conv, a PReLU and a scale, with `name` wherever a file may put one."""
    draw = np.random.default_rng(0).standard_normal
    weights, nodes, value = [], [], name
    for index in range(2):
        path = f"{name}.{index}.{name}"
        shapes = {f"{path}.conv.weight": (4, 4, 1, 1), f"{path}.conv.bias": (4,), f"{path}.{name}": (4, 1, 1)}
        weights += [numpy_helper.from_array(draw(s).astype(np.float32), n) for n, s in shapes.items()]
        conv, act, out = f"{path} c", f"{path} a", f"{path} o"
        nodes.append(helper.make_node("Conv", [value, *list(shapes)[:2]], [conv], name=f"/{name}/{name}.{index}/Conv"))
        nodes.append(helper.make_node("Relu", [conv], [act], name=f"{name} {index}"))
        nodes.append(helper.make_node("Mul", [act, f"{path}.{name}"], [out], name=f"{name}{index}"))
        value = out
    for node in nodes:
        scopes, classes = [name, f"{name}.0", "conv", "fx"], [f"m.{name}", name, "torch.nn.Conv2d", "aten"]
        for key, text in (("name_scopes", scopes), ("class_hierarchy", classes)):
            node.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=repr(text))
    nodes.append(helper.make_node("Identity", [value], [f"out {name}"]))
    ends = [
        helper.make_tensor_value_info(name if e == "in" else f"{e} {name}", TensorProto.FLOAT, ["N", 4, 3, 3])
        for e in ("in", "out")
    ]
    graph = helper.make_graph(nodes, name, ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=name)


@pytest.mark.parametrize("name", HOSTILE, ids=[ascii(name) for name in HOSTILE])
def test_names_of_the_file_enter_the_text_as_identifiers_and_strings_only(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = onnx_to_torch(hostile_model(name))
    require_record(module).source = f"{name}.onnx"
    text = generate_source(module)
    refuse_unexpected_syntax(text)
    twin = module_from_source(text, module.state_dict())
    assert set(twin.state_dict()) == set(module.state_dict())
    x = torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        assert torch.equal(twin(x), module(x))
    assert not re.search(r"(?<![.\w])getattr\(", text)
    assert not list(tmp_path.iterdir())


def test_a_class_name_of_the_metadata_is_used_only_when_it_is_a_plain_identifier():
    for stated, expected in {
        "OSBlock": "class OSBlock(",
        "_Hidden": "class Hidden(",
        "__Mangled": "class Mangled(",
        "Bad-Name": "",
        "int": "class Int(",
        "self": "class Self(",
        "ﬁne": "",
        "Conv2d": "",
        "class": "",
        "Model": "class Model2(",
    }.items():
        model = hostile_model("net")
        for node in model.graph.node:
            for entry in node.metadata_props:
                if entry.key.endswith("scopes"):
                    entry.value = repr(["net", "net.0", "net.0.net", "conv", "fx"])
                else:
                    entry.value = repr(["m.Net", f"m.{stated}", f"m.{stated}", "torch.nn.Conv2d", "aten"])
        text = generate_source(onnx_to_torch(model))
        names = [line.split("(")[0].removeprefix("class ") for line in text.splitlines() if line.startswith("class ")]
        assert all(name.isidentifier() and name.isascii() for name in names)
        assert names.count("Model") == 1
        assert expected in text


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "from os import system",
        "import torch.utils.cpp_extension",
        "from . import models",
        "x = open('a')",
        "class A:\n    def f(self):\n        return eval('1')",
        "class A:\n    x = ().__class__.__bases__",
        "class A:\n    def f(self):\n        return __import__('os')",
        "print('hello')",
        "torch.load('weights.pt')",
        "for i in range(3):\n    pass",
        "del x",
        "class A:\n    def f(self, exec):\n        return x\n    def g(self):\n        return exec('1')",
    ],
)
def test_text_that_does_more_than_define_is_never_executed(text):
    with pytest.raises(GateError, match=r"model\.py: line \d .*expected definitions.*report this model"):
        module_from_source(text + "\nraise SystemExit(3)\n", {})


@pytest.fixture
def file(exported, tmp_path):
    path = tmp_path / "small.onnx"
    onnx.save(exported("cnn", "ts", 13)[1], path)
    return path


def broken(old, new):
    """`generate_source` as a faulty version of it would be."""

    def generate(module):
        text = generate_source(module)
        assert old in text
        return text.replace(old, new)

    return generate


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("torch.sigmoid(", "torch.tanh(", r"written as model\.py, the module differs .* nothing was written"),
        ("nn.InstanceNorm2d(4, affine=True)", "nn.InstanceNorm2d(4, eps=1e-9, affine=True)", r"layer instance is"),
        ("self.instance = ", "self.other = ", "expected to load, got RuntimeError"),
        ("def forward", "def forward(", "expected to load, got SyntaxError"),
        ("import torch\n", "import torch\nimport os\n", r"GateError: model\.py: line \d+ holds import os"),
    ],
)
def test_a_text_that_is_another_function_is_caught_before_anything_is_written(
    file, tmp_path, monkeypatch, old, new, reason
):
    monkeypatch.setattr(check, "generate_source", broken(old, new))
    with pytest.raises(GateError, match=reason):
        rtool.onnx2torch(file, tmp_path / "m.rtool")
    assert not (tmp_path / "m.rtool").exists()


def test_onnx2torch_executes_the_very_text_that_it_saves(file, tmp_path, monkeypatch):
    seen = []

    def executed(module):
        seen.append(generate_source(module))
        return seen[-1]

    monkeypatch.setattr(check, "generate_source", executed)
    rtool.onnx2torch(file, tmp_path / "m.rtool")
    assert seen == [(tmp_path / "m.rtool" / "model.py").read_text()]


def test_a_model_py_on_disk_is_never_executed(file, tmp_path):
    rtool.onnx2torch(file, tmp_path / "m.rtool")
    (tmp_path / "m.rtool" / "model.py").write_text("raise SystemExit(3)\n")
    bundle = rtool.converters.load_bundle(tmp_path / "m.rtool")
    assert isinstance(bundle.module, nn.Module)
    onnx_to_bundle.save_bundle(bundle.module, tmp_path / "again.rtool", source=tmp_path / "m.rtool")


def test_the_executed_module_shares_the_weights_and_is_in_eval_mode(exported):
    module = onnx_to_torch(exported("vit", "dy", 20)[1])
    twin = written_module(module)
    own = dict(module.named_parameters())
    assert not twin.training
    assert all(parameter.data_ptr() == own[name].data_ptr() for name, parameter in twin.named_parameters())


@pytest.mark.parametrize("names", [("0.weight", "0.fc.weight"), ("1.weight", "1.3.weight")])
def test_a_layer_with_a_number_for_a_name_and_something_below_it_is_written(names, tmp_path):
    draw = np.random.default_rng(0)
    weights = [numpy_helper.from_array(draw.normal(size=(4, 4)).astype(np.float32), name) for name in names]
    nodes = [
        helper.make_node("Gemm", ["x", names[0]], ["a"], transB=1),
        helper.make_node("Gemm", ["a", names[1]], ["y"], transB=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    rtool.onnx2torch(path, tmp_path / "m.rtool")
    assert (tmp_path / "m.rtool" / "model.py").is_file()


def test_two_layers_that_would_have_one_number_are_written(tmp_path):
    draw = np.random.default_rng(0)
    names = ("a.0.weight", "val_1", "val_2", "a.5.weight")
    weights = [numpy_helper.from_array(draw.normal(size=(4, 4)).astype(np.float32), name) for name in names]
    nodes = [
        helper.make_node("Gemm", ["x", "a.0.weight"], ["first"], transB=1),
        helper.make_node("MatMul", ["first", "val_1"], ["left"]),
        helper.make_node("MatMul", ["first", "val_2"], ["right"]),
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Gemm", ["sum", "a.5.weight"], ["y"], transB=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    rtool.onnx2torch(path, tmp_path / "m.rtool")
    found = rtool.converters.load_bundle(tmp_path / "m.rtool").module.state_dict()
    assert set(found) == {"a.0.weight", "a.1.weight", "a.m1_2.weight", "a.5.weight"}
