"""Weights end up where they belong, whatever the order and the spelling of their names, or the file is refused.

The oracle is ONNX Runtime with the trained values written into the initializers of the source file.
"""

import random
import re

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rtool.converters.batchnorm.restore import restore_batchnorm
from rtool.converters.lowering.conversion import onnx_to_torch
from rtool.converters.weights.state_dict_loading import load_state_dict_file
from rtool.errors import InputError

NUMBERED = [f"onnx::Conv_{number}" for number in (9, 10, 100, 99, 2, 11)]
HOSTILE = ["layer10.weight", "layer2.weight", "Layer2.weight", "layer1.weight", "z", "a"]
DIGITS = ["10", "9", "100", "2", "1", "11"]
SLASHED = ["/b/Constant", "/a/Constant", "b:0", "a:0", "é.w", "x-y"]


def model(weights, operator="Conv", constants=()):
    """A chain of layers, one for each weight, with a Tanh behind each, so that every order gives other numbers."""
    nodes, value = [], "x"
    for number, name in enumerate(weights):
        nodes.append(helper.make_node(operator, [value, name], [f"h{number}"]))
        nodes.append(helper.make_node("Tanh", [f"h{number}"], [f"t{number}"]))
        value = f"t{number}"
    for name, _ in constants:
        inputs = ("Reshape", [value, name]) if name == "shape" else ("Clip", [value, "", name])
        nodes.append(helper.make_node(*inputs, [f"after {name}"]))
        value = f"after {name}"
    nodes.append(helper.make_node("Identity", [value], ["y"]))
    shape = ["n", 4, 2, 2] if operator == "Conv" else ["n", 4]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in {**weights, **dict(constants)}.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def drawn(names, seed, shape=(4, 4, 1, 1)):
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name in names}


def expected(weights, x, **options):
    session = ort.InferenceSession(model(weights, **options).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def save(path, tensors, seed=0):
    """The tensors in a random order."""
    keys = list(tensors)
    random.Random(seed).shuffle(keys)
    torch.save({key: torch.from_numpy(np.ascontiguousarray(tensors[key])) for key in keys}, path)
    return path


def images(shape=(3, 4, 2, 2)):
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def assert_same(module, want, x):
    with torch.no_grad():
        np.testing.assert_allclose(module.eval()(torch.from_numpy(x)).numpy(), want, rtol=1e-5, atol=1e-6)


SPELLINGS = {
    "raw": lambda name: name,
    "attribute": lambda name: re.sub(r"[^0-9A-Za-z_]", "_", name),
    "one sign for several": lambda name: re.sub(r"[^0-9A-Za-z]+", "_", name),
    "registered with a letter": lambda name: "p_" + re.sub(r"[^0-9A-Za-z_]", "_", name),
    "inside a wrapper": lambda name: "module.backbone." + re.sub(r"[^0-9A-Za-z_]", "_", name),
    "raw inside a wrapper": lambda name: "module." + name,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "names", [NUMBERED, HOSTILE, DIGITS, SLASHED], ids=["numbered", "hostile", "digits", "slashed"]
)
def test_initializer_names_lead_to_their_layers_in_any_order_and_spelling(tmp_path, names, spelling):
    for seed in range(3):
        trained = drawn(names, seed + 1)
        module = onnx_to_torch(model(drawn(names, 0)))
        path = save(tmp_path / "w.pth", {SPELLINGS[spelling](name): value for name, value in trained.items()}, seed)
        match = load_state_dict_file(module, path)
        assert (match.missing, match.unused, match.changed) == ((), (), len(names))
        assert_same(module, expected(trained, images()), images())


@pytest.mark.parametrize("names", [NUMBERED, HOSTILE, DIGITS])
def test_names_of_the_module_lead_to_their_layers_in_any_order_and_spelling(tmp_path, names):
    trained = onnx_to_torch(model(drawn(names, 1))).state_dict()
    for spelled in (str, lambda name: name.replace(".", "_"), lambda name: f"module.{name}"):
        module = onnx_to_torch(model(drawn(names, 0)))
        save(tmp_path / "w.pth", {spelled(name): value.numpy() for name, value in trained.items()})
        load_state_dict_file(module, tmp_path / "w.pth")
        assert_same(module, expected(drawn(names, 1), images()), images())


def test_an_order_is_never_a_name(tmp_path):
    module = onnx_to_torch(model(drawn(NUMBERED, 0)))
    path = save(tmp_path / "w.pth", {f"p{n}": value for n, value in enumerate(drawn(NUMBERED, 1).values())})
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(InputError, match=r"neither names nor shapes tell .*4x4x1x1.*; p\d 4x4x1x1.*save them under"):
        load_state_dict_file(module, path)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_an_ambiguous_rest_is_listed_and_never_loaded_where_gaps_are_accepted(tmp_path):
    source = drawn(NUMBERED, 0)
    module = onnx_to_torch(model(source))
    trained = drawn(NUMBERED, 1)
    known = NUMBERED[:4]
    tensors = {name: trained[name] for name in known} | {f"p{n}": trained[name] for n, name in enumerate(NUMBERED[4:])}
    save(tmp_path / "w.pth", tensors)
    match = load_state_dict_file(module, tmp_path / "w.pth", may_lack=lambda _: True, may_have_others=True)
    assert len(match.missing) == 2
    assert sorted(match.unused) == ["p0", "p1"]
    assert_same(module, expected({**source, **{name: trained[name] for name in known}}, images()), images())


def test_equal_values_identify_a_tensor_and_leave_the_module_as_it_is(tmp_path):
    source = drawn(NUMBERED, 0)
    module = onnx_to_torch(model(source))
    match = load_state_dict_file(module, save(tmp_path / "w.pth", {f"p{n}": v for n, v in enumerate(source.values())}))
    assert {entry.how for entry in match.matched} == {"equal values"}
    assert match.changed == 0
    assert_same(module, expected(source, images()), images())


def test_a_transposed_matrix_is_recognised_by_its_values(tmp_path):
    source = drawn("ab", 0, (4, 4))
    module = onnx_to_torch(model(source, "MatMul"))
    load_state_dict_file(module, save(tmp_path / "w.pth", {f"p{n}": value for n, value in enumerate(source.values())}))
    assert_same(module, expected(source, images((3, 4)), operator="MatMul"), images((3, 4)))


def biased(first, second):
    """Two layers x W + b with biases of one shape."""
    nodes = [helper.make_node("Gemm", ["x", "u", "b1"], ["h"]), helper.make_node("Gemm", ["h", "v", "b2"], ["y"])]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])]
    infos += [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    tensors = {"u": drawn("u", 0, (5, 3))["u"], "v": drawn("v", 0, (3, 3))["v"], "b1": first, "b2": second}
    graph = helper.make_graph(
        nodes, "g", infos[:1], infos[1:], [numpy_helper.from_array(v, k) for k, v in tensors.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tensors


def test_zeros_are_no_distinctive_values(tmp_path):
    """The first bias is zeros in the source, and the second in the file."""
    zeros, others = np.zeros(3, np.float32), np.array([1, 2, 3], np.float32)
    proto, tensors = biased(zeros, others)
    state = {"u": tensors["u"], "v": tensors["v"], "p0": others + 1, "p1": zeros}
    with pytest.raises(InputError, match="neither names nor shapes tell"):
        load_state_dict_file(onnx_to_torch(proto), save(tmp_path / "w.pth", state))
    proto, tensors = biased(zeros, zeros)
    state = {"u": tensors["u"], "v": tensors["v"], "p0": zeros, "p1": zeros}
    module = onnx_to_torch(proto)
    assert load_state_dict_file(module, save(tmp_path / "w.pth", state)).changed == 0


def test_a_shape_counts_where_each_that_is_left_is_there_once(tmp_path):
    proto, tensors = biased(np.ones(3, np.float32), np.zeros(3, np.float32))
    trained = {**tensors, "u": tensors["u"] + 1}
    state = {"p": trained["u"], "v": trained["v"], "b1": trained["b1"], "b2": trained["b2"]}
    module = onnx_to_torch(proto)
    match = load_state_dict_file(module, save(tmp_path / "w.pth", state))
    assert [entry.key for entry in match.matched if entry.how == "shape"] == ["p"]
    x = images((2, 5))
    assert_same(module, (x @ trained["u"] + 1) @ trained["v"], x)
    with pytest.raises(InputError, match=r"1 of the network is missing .*2 of the file are left over"):
        load_state_dict_file(onnx_to_torch(proto), save(tmp_path / "w.pth", {**state, "q": trained["u"]}))


def test_numbers_of_another_export_are_no_names(tmp_path):
    """The same network, exported once more, counts from one further: its `_10` is the other's `_9`."""
    names = [f"onnx::Conv_{number}" for number in range(5, 11)]
    shifted = {f"onnx::Conv_{number + 1}": value for number, value in enumerate(drawn(names, 1).values(), 5)}
    for way in (str, SPELLINGS["attribute"]):
        path = save(tmp_path / "w.pth", {way(name): value for name, value in shifted.items()})
        for options in ({}, {"may_lack": lambda _: True, "may_have_others": True}):
            with pytest.raises(InputError, match="0 tensors fit"):
                load_state_dict_file(onnx_to_torch(model(drawn(names, 0))), path, **options)


def test_names_that_become_equal_when_spelled_tell_nothing(tmp_path):
    names = ["a.b", "a_b", "c"]
    trained = drawn(names, 1)
    module = onnx_to_torch(model(drawn(names, 0)))
    load_state_dict_file(module, save(tmp_path / "w.pth", trained))
    assert_same(module, expected(trained, images()), images())
    with pytest.raises(InputError, match="neither names nor shapes tell"):
        load_state_dict_file(
            onnx_to_torch(model(drawn(names, 0))),
            save(tmp_path / "w.pth", {"p_a_b": trained["a.b"], "p_a__b": trained["a_b"], "p_c": trained["c"]}),
        )


def test_the_layout_of_a_square_matrix_follows_from_the_others_or_is_asked_for(tmp_path):
    names, x = ["fc.weight", "onnx::MatMul_7"], images((3, 4))
    trained = drawn(names, 1, (4, 4))
    want = expected(trained, x, operator="MatMul")
    fresh = lambda: onnx_to_torch(model(drawn(names, 0, (4, 4)), "MatMul"))  # noqa: E731
    by_graph, by_module = fresh(), fresh()
    load_state_dict_file(by_graph, save(tmp_path / "w.pth", trained))
    assert_same(by_graph, want, x)
    torch.save(by_graph.state_dict(), tmp_path / "m.pth")
    load_state_dict_file(by_module, tmp_path / "m.pth")
    assert_same(by_module, want, x)
    alone = {"fc.weight": trained["fc.weight"]}
    with pytest.raises(InputError, match=r"'fc\.weight' is 4x4, and the graph has this matrix transposed"):
        load_state_dict_file(onnx_to_torch(model(drawn(alone, 0, (4, 4)), "MatMul")), save(tmp_path / "w.pth", alone))


def test_constants_of_the_graph_may_be_in_the_file_with_their_values(tmp_path):
    constants = (("shape", np.array([0, 4, 2, 2])), ("high", np.array(0.1, np.float32)))
    trained = drawn(NUMBERED, 1)
    proto = model(drawn(NUMBERED, 0), constants=constants)
    module = onnx_to_torch(proto)
    save(tmp_path / "w.pth", {SPELLINGS["attribute"](name): v for name, v in (trained | dict(constants)).items()})
    assert load_state_dict_file(module, tmp_path / "w.pth", graph=proto.graph).unused == ()
    assert_same(module, expected(trained, images(), constants=constants), images())
    save(tmp_path / "w.pth", trained | {"high": np.array(0.75, np.float32)})
    with pytest.raises(InputError, match="'high' is a constant of the graph, which has another value"):
        load_state_dict_file(onnx_to_torch(proto), tmp_path / "w.pth", graph=proto.graph)


def test_a_name_that_an_exporter_shares_between_equal_weights_fills_them_all(tmp_path):
    """Identity gives the one stored weight a second name, under which the module has its own copy."""
    stored = drawn(["a"], 0)
    proto = model({"a": stored["a"], "b": stored["a"]})
    del proto.graph.initializer[1]
    proto.graph.node.insert(0, helper.make_node("Identity", ["a"], ["b"]))
    trained, x = drawn(["a"], 1), images()
    for spelled in ("a", "module.a", "p_a"):
        module = onnx_to_torch(proto)
        path = save(tmp_path / "w.pth", {spelled: trained["a"]})
        load_state_dict_file(module, path, graph=proto.graph)
        assert_same(module, expected({"a": trained["a"], "b": trained["a"]}, x), x)
    apart = drawn(["a", "b"], 2)
    load_state_dict_file(module, save(tmp_path / "w.pth", apart), graph=proto.graph)
    assert_same(module, expected(apart, x), x)


def test_two_tensors_for_one_of_the_network_are_refused(tmp_path):
    module = nn.Module()
    module.a, module.b = nn.Linear(3, 3), nn.Linear(3, 3)
    module.b.weight = module.a.weight
    state = {name: value.clone() for name, value in module.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    load_state_dict_file(module, tmp_path / "w.pth")
    del state["b.weight"]
    state["a.weight"] += 1
    torch.save(state, tmp_path / "once.pth")
    assert load_state_dict_file(module, tmp_path / "once.pth").missing == ()
    assert torch.equal(module.b.weight, state["a.weight"])
    torch.save({**state, "b.weight": torch.ones(3, 3)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"'a\.weight' and 'b\.weight' differ, and .* are one tensor of the network"):
        load_state_dict_file(module, tmp_path / "w.pth")


def test_a_conv_of_one_pixel_takes_the_matrix_of_a_linear(tmp_path):
    linear, conv = nn.Linear(3, 5), nn.Conv2d(3, 5, 1)
    torch.save(linear.state_dict(), tmp_path / "w.pth")
    load_state_dict_file(conv, tmp_path / "w.pth")
    x = torch.randn(2, 3)
    with torch.no_grad():
        assert torch.allclose(conv(x[:, :, None, None])[:, :, 0, 0], linear(x), atol=1e-6)


def retrained(original):
    """The state_dict of the unfused network, every tensor moved."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: value + 0.1 * torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in original.state_dict().items()
    }


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_unfused_networks_weights_are_folded_into_the_fused_one(model_file, exported, images, tmp_path, prefix):
    original, _ = exported("cnn", "ts", 13)
    state = retrained(original)
    keys = list(state)
    random.Random(1).shuffle(keys)
    torch.save({"state_dict": {prefix + key: state[key] for key in keys}}, tmp_path / "w.pth")
    module = onnx_to_torch(model_file)
    match = load_state_dict_file(module, tmp_path / "w.pth")
    assert (match.missing, match.unused) == ((), ())
    assert "name, BatchNorm folded" in {entry.how for entry in match.matched}
    original_state, x = original.state_dict(), torch.from_numpy(images(3))
    saved = {name: value.clone() for name, value in original_state.items()}
    try:
        original.load_state_dict(state)
        with torch.no_grad():
            assert torch.allclose(module(x), original.eval()(x), rtol=0, atol=1e-5)
    finally:
        original.load_state_dict(saved)


def test_a_batchnorm_that_no_layer_can_have_lost_is_refused(model_file, exported, tmp_path):
    original, _ = exported("cnn", "ts", 13)
    renamed = {name.replace("stem.1.", "stem.normalise."): value for name, value in retrained(original).items()}
    torch.save(renamed, tmp_path / "w.pth")
    for options in ({}, {"may_lack": lambda _: True, "may_have_others": True}):
        with pytest.raises(InputError, match=r"BatchNorms \(stem\.normalise\) lie behind no layer of the fused one"):
            load_state_dict_file(onnx_to_torch(model_file), tmp_path / "w.pth", **options)


def test_fused_weights_are_refused_where_batchnorms_were_restored(model_file, images, tmp_path):
    torch.save(onnx_to_torch(model_file).state_dict(), tmp_path / "w.pth")
    module = onnx_to_torch(model_file)
    restore_batchnorm(module, [torch.from_numpy(images(8))])
    for options in ({}, {"may_lack": lambda _: True, "may_have_others": True}):
        with pytest.raises(InputError, match=r"so it is of the fused network; convert .*--restore-bn --weights w\.pth"):
            load_state_dict_file(module, tmp_path / "w.pth", **options)
