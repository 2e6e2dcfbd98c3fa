"""Numbers written into a model's code stay what they are, under any name; what was learned trains."""

import contextlib
import io
import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtool.converters import load_bundle, onnx_to_torch, write_back
from rtool.errors import InputError

NAMES = [
    "beta_cast",
    "val_12",
    "/layers/1/Constant_output_0",
    "onnx::Pow_7",
    "c",
    "scale",
    "constant_3",
    "p2o.Constant.4",
]


def graph(nodes, numbers, *, as_nodes=False, producer=""):
    """A model float32 [N, 4] -> [N, 4] of `nodes`; `numbers`: name -> value, beside the matrix `fc.weight`."""
    weights = [numpy_helper.from_array(np.eye(4, dtype=np.float32) * 0.5, "fc.weight")]
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in numbers.items()]
    constants = (
        [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors] if as_nodes else []
    )
    made = [helper.make_node(op, inputs, [out], name=f"n_{i}") for i, (op, inputs, out) in enumerate(nodes)]
    shape = ["n", 4]
    return helper.make_model(
        helper.make_graph(
            [*constants, *made],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [*weights, *([] if as_nodes else tensors)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name=producer,
    )


def learned(model, **options):
    return sorted(name for name, _ in onnx_to_torch(model, **options).named_parameters())


def runs(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


OPERATORS = [
    [("MatMul", ["x", "fc.weight"], "h"), ("Pow", ["h", "NUMBER"], "y")],
    [("MatMul", ["x", "fc.weight"], "h"), ("Mul", ["h", "NUMBER"], "y")],
    [("MatMul", ["x", "fc.weight"], "h"), ("Div", ["NUMBER", "h"], "y")],
    [("MatMul", ["x", "fc.weight"], "h"), ("Sub", ["h", "NUMBER"], "y")],
    [("MatMul", ["x", "fc.weight"], "h"), ("Max", ["h", "NUMBER"], "y")],
    [("MatMul", ["x", "fc.weight"], "h"), ("Greater", ["h", "NUMBER"], "b"), ("Where", ["b", "h", "NUMBER"], "y")],
    [("MatMul", ["x", "fc.weight"], "h"), ("Clip", ["h", "", "NUMBER"], "y")],
    [("MatMul", ["x", "fc.weight"], "h"), ("Reciprocal", ["NUMBER"], "r"), ("Pow", ["h", "r"], "y")],
    [("MatMul", ["x", "fc.weight"], "h"), ("Sqrt", ["NUMBER"], "r"), ("Mul", ["h", "r"], "y")],
    [
        ("MatMul", ["x", "fc.weight"], "h"),
        ("Mul", ["h", "NUMBER"], "m"),
        ("Softplus", ["m"], "s"),
        ("Div", ["s", "NUMBER"], "y"),
    ],
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nodes", OPERATORS, ids=lambda nodes: "-".join(node[0] for node in nodes))
def test_a_number_of_the_code_is_fixed_under_any_name(nodes, name):
    named = [(op, [name if i == "NUMBER" else i for i in inputs], out) for op, inputs, out in nodes]
    model = graph(named, {name: 2.0})
    module = onnx_to_torch(model)
    assert [parameter for parameter, _ in module.named_parameters()] == ["fc.weight"]
    x = np.abs(np.random.default_rng(0).standard_normal((3, 4))).astype(np.float32) + 0.5
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), runs(model, x), rtol=1e-5, atol=1e-6)
    assert write_back(module, model).SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("as_nodes", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)])
def test_a_number_may_have_any_rank_and_be_a_node(as_nodes, shape):
    nodes = [("MatMul", ["x", "fc.weight"], "h"), ("Greater", ["h", "n"], "b"), ("Where", ["b", "h", "n"], "w")]
    nodes.append(("Reshape", ["w", "to"], "y"))
    model = graph(nodes, {"n": np.full(shape, 0.1)}, as_nodes=as_nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 4]), "to"))
    assert learned(model) == ["fc.weight"]


def test_an_exponent_never_trains_even_as_a_vector_or_when_called_learned():
    nodes = [("MatMul", ["x", "fc.weight"], "h"), ("Pow", ["h", "layers.0.p"], "y")]
    vector = graph(nodes, {"layers.0.p": [1.0, 2.0, 3.0, 1.0]})
    assert learned(vector) == ["fc.weight"]
    number = graph(nodes, {"layers.0.p": 3.0})
    assert learned(number) == ["fc.weight"]
    with pytest.raises(InputError, match=r"'layers\.0\.p' is an exponent, .* never trains"):
        onnx_to_torch(number, learned=["layers.0.p"])


def test_a_number_that_is_added_to_all_channels_of_a_layer_is_of_the_code():
    """x * relu6(x + 3) / 6 behind a convolution that took a BatchNorm in: the 3 is no bias."""
    nodes = [("MatMul", ["x", "fc.weight"], "h"), ("Add", ["h", "three"], "s"), ("Clip", ["s", "low", "high"], "t")]
    model = graph([*nodes, ("Mul", ["h", "t"], "y")], {"three": 3, "low": 0, "high": 6})
    assert learned(model) == ["fc.weight"]


def test_the_bias_of_a_layer_with_one_output_is_learned():
    model = graph([("MatMul", ["x", "score.w"], "h"), ("Add", ["h", "score.b"], "y")], {"score.b": [0.5]})
    model.graph.initializer.append(numpy_helper.from_array(np.ones((4, 1), np.float32), "score.w"))
    assert len(learned(model)) == 2


def test_an_epsilon_is_fixed_whatever_its_name():
    nodes = [("MatMul", ["x", "fc.weight"], "h"), ("Mul", ["h", "h"], "s"), ("Add", ["s", "norm.eps"], "e")]
    assert learned(graph([*nodes, ("Sqrt", ["e"], "y")], {"norm.eps": 1e-3})) == ["fc.weight"]
    root = graph([*nodes, ("Pow", ["e", "norm.r"], "y")], {"norm.eps": 1e-3, "norm.r": -0.5})
    assert learned(root) == ["fc.weight"]


def test_a_number_with_a_path_of_the_state_dict_is_learned():
    """ReZero's alpha, as TorchScript exports keep it."""
    nodes = [("MatMul", ["x", "fc.weight"], "h"), ("Mul", ["h", "layers.0.alpha"], "y")]
    assert learned(graph(nodes, {"layers.0.alpha": 0.3})) == ["fc.weight", "layers.0.alpha"]


def test_a_learned_temperature_on_the_top_level_of_a_torchscript_file_is_learned():
    nodes = [("MatMul", ["x", "fc.weight"], "h"), ("Exp", ["logit_scale"], "e"), ("Mul", ["h", "e"], "y")]
    model = graph(nodes, {"logit_scale": 2.6}, producer="pytorch")
    assert learned(model) == ["fc.weight"]
    for node in model.graph.node:
        node.name = f"/{node.op_type}"
    assert learned(model) == ["fc.weight", "logit_scale"]


@pytest.mark.parametrize("as_nodes", [False, True])
def test_the_caller_may_call_a_number_learned(as_nodes, tmp_path):
    from rtool.converters import onnx2torch

    nodes = [("MatMul", ["x", "fc.weight"], "h"), ("Mul", ["h", "val_3"], "y")]
    model = graph(nodes, {"val_3": 1.5}, as_nodes=as_nodes)
    module = onnx_to_torch(model, learned=["val_*"])
    (name,) = (name for name, p in module.named_parameters() if p.numel() == 1)
    with torch.no_grad():
        module.get_parameter(name).fill_(2.5)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(runs(write_back(module, model), x), x * 0.5 * 2.5, rtol=1e-5)
    with pytest.raises(InputError, match=r"'alpha' matches no single number .* computes with: 'val_3'"):
        onnx_to_torch(graph(nodes, {"val_3": 1.5}), learned=["alpha"])
    with pytest.raises(InputError, match="'alpha' matches nothing: the graph computes with no single number"):
        onnx_to_torch(graph([*nodes[:1], ("Relu", ["h"], "y")], {}), learned=["alpha"])
    onnx.save(model, tmp_path / "m.onnx")
    result = onnx2torch(tmp_path / "m.onnx", tmp_path / "m.rtool", learned=["val_3"])
    assert result.parameters == 17
    assert sum(p.numel() for p in load_bundle(result.output).module.parameters()) == 17


def test_one_initializer_that_is_an_exponent_and_learned_is_split_and_the_exponent_stays():
    nodes = [("MatMul", ["x", "fc.weight"], "h"), ("Pow", ["h", "a.scale"], "s"), ("Mul", ["s", "a.scale"], "y")]
    model = graph(nodes, {"a.scale": 2.0})
    module = onnx_to_torch(model)
    assert sorted(name for name, _ in module.named_parameters()) == ["a.scale", "fc.weight"]
    with torch.no_grad():
        module.get_parameter("a.scale").fill_(7.0)
    written = write_back(module, model)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(runs(written, x), (x * 0.5) ** 2 * 7, rtol=1e-5)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    assert stored["a.scale"] == 2.0


def trained(nodes, tensors, inputs, outputs, opset=22):
    value = helper.make_tensor_value_info
    made = [
        helper.make_node(op, names, [out], name=f"n_{i}", **options)
        for i, (op, names, out, options) in enumerate(nodes)
    ]
    model = helper.make_model(
        helper.make_graph(
            made,
            "g",
            [value(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [value(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    return sorted(name for name, _ in onnx_to_torch(model).named_parameters())


CONV = ("Conv", ["x", "conv.weight"], "f", {"kernel_shape": [1, 1]})
ROIS = np.array([[0, 0, 0, 3, 3], [0, 1, 1, 5, 5]], np.float32)


@pytest.mark.parametrize("name", ["rois", "head.rois", "head.weight", "p2o.Constant.4"])
@pytest.mark.parametrize(
    ("node", "tensors"),
    [
        (("MaxRoiPool", ["f", "ROIS"], "y", {"pooled_shape": [2, 2]}), {"ROIS": ROIS}),
        (
            ("RoiAlign", ["f", "ROIS", "index"], "y", {"output_height": 2, "output_width": 2}),
            {"ROIS": ROIS[:, 1:], "index": np.zeros(2, np.int64)},
        ),
    ],
    ids=["MaxRoiPool", "RoiAlign"],
)
def test_boxes_of_the_file_never_train(node, tensors, name):
    operator, inputs, output, options = node
    node = (operator, [name if each == "ROIS" else each for each in inputs], output, options)
    tensors = {name if key == "ROIS" else key: array for key, array in tensors.items()}
    weights = {"conv.weight": np.ones((4, 3, 1, 1), np.float32), **tensors}
    assert trained([CONV, node], weights, {"x": [1, 3, 8, 8]}, {"y": [2, 4, 2, 2]}) == ["conv.weight"]


@pytest.mark.parametrize("state", ["made up", "of sizes", "a number", "by arithmetic", "stored"])
def test_a_state_that_the_graph_makes_up_never_trains_and_a_stored_one_does(state):
    lstm = ("LSTM", ["x", "w", "r", "", "", "h", "h"], "y", {"hidden_size": 4})
    shape = np.array([1, 2, 4])
    tensors = {"w": np.ones((1, 16, 3), np.float32), "r": np.ones((1, 16, 4), np.float32)}
    made = {
        "made up": ([("ConstantOfShape", ["shape"], "h", {})], {"shape": shape}),
        "of sizes": (
            [
                ("Shape", ["x"], "sizes", {"start": 1, "end": 2}),
                ("Concat", ["one", "sizes", "four"], "shape", {"axis": 0}),
                ("ConstantOfShape", ["shape"], "h", {}),
            ],
            {"one": shape[:1], "four": shape[2:]},
        ),
        "a number": (
            [
                ("Shape", ["x"], "sizes", {"start": 1, "end": 2}),
                ("Concat", ["one", "sizes", "four"], "shape", {"axis": 0}),
                ("Expand", ["zero", "shape"], "h", {}),
            ],
            {"one": shape[:1], "four": shape[2:], "zero": np.array(0, np.float32)},
        ),
        "by arithmetic": (
            [
                ("ConstantOfShape", ["shape"], "zeros", {}),
                ("Cos", ["zeros"], "ones", {}),
                ("Tile", ["ones", "times"], "h", {}),
            ],
            {"shape": np.array([1, 1, 4]), "times": np.array([1, 2, 1])},
        ),
        "stored": ([], {"h": np.zeros((1, 2, 4), np.float32)}),
    }
    nodes, more = made[state]
    names = trained([*nodes, lstm], {**tensors, **more}, {"x": [5, 2, 3]}, {"y": [5, 1, 2, 4]})
    assert len(names) == (3 if state == "stored" else 2)


def test_weights_that_are_stored_as_integers_or_in_constant_nodes_train():
    nodes = [
        ("Cast", ["stored"], "levels", {"to": TensorProto.FLOAT}),
        ("Constant", [], "step", {"value": numpy_helper.from_array(np.float32(0.1))}),
        ("Mul", ["levels", "step"], "w", {}),
        ("MatMul", ["x", "w"], "y", {}),
    ]
    assert len(trained(nodes, {"stored": np.ones((4, 4), np.int8)}, {"x": [2, 4]}, {"y": [2, 4]})) == 1
    values = numpy_helper.from_array(np.ones((4, 4), np.float32))
    nodes = [("Constant", [], "w", {"value": values}), ("MatMul", ["x", "w"], "y", {})]
    assert len(trained(nodes, {}, {"x": [2, 4]}, {"y": [2, 4]})) == 1


class Net(nn.Module):
    """A Softplus whose beta equals the exponent of a hand-written norm; a learned number, and a buffer."""

    def __init__(self):
        super().__init__()
        self.c, self.f = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.act = nn.Softplus(beta=2.0)
        self.alpha = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("shift", torch.tensor(0.25))
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))

    def forward(self, x):
        x = self.act(self.c(x - self.mean)) * self.alpha + self.shift
        u = x.mean(1, keepdim=True)
        v = (x - u).pow(2).mean(1, keepdim=True)
        return self.f(((x - u) / torch.sqrt(v + 1e-6)).mean((2, 3)))


def exported(dynamo):
    torch.manual_seed(0)
    net, file = Net().eval(), io.BytesIO()
    logging.disable(40)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        options = {"opset_version": 18} if dynamo else {"opset_version": 17}
        program = torch.onnx.export(
            net, (torch.randn(2, 3, 8, 8),), None if dynamo else file, dynamo=dynamo, verbose=False, **options
        )
    logging.disable(0)
    return net, program.model_proto if dynamo else onnx.load_model_from_string(file.getvalue())


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_what_trains_in_an_exported_network_has_the_gradients_of_the_original(dynamo):
    net, model = exported(dynamo)
    module, x = onnx_to_torch(model), torch.randn(2, 3, 8, 8)
    module(x).pow(2).mean().backward()
    net(x).pow(2).mean().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(module.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-6)
    # Only dynamo's metadata tell a buffer of one number from a parameter.
    extra = {name for name, _ in module.named_parameters()} - {name for name, _ in net.named_parameters()}
    assert extra == (set() if dynamo else {"shift"})
    assert "mean" in dict(module.named_buffers())


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("optimiser", ["onnxslim", "onnxsim"])
def test_an_optimiser_that_merges_and_renames_numbers_makes_none_of_them_trainable(dynamo, optimiser):
    net, model = exported(dynamo)
    if optimiser == "onnxslim":
        import onnxslim

        model = onnxslim.slim(model)
    else:
        import onnxsim

        model, _ = onnxsim.simplify(model)
    module, x = onnx_to_torch(model), torch.randn(2, 3, 8, 8)
    output = module(x)
    torch.testing.assert_close(output, net(x))
    output.pow(2).mean().backward()
    assert {name for name, p in module.named_parameters() if p.numel() == 1} <= {"alpha", "shift"}
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)
