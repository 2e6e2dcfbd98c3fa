"""A weight that several nodes read is one parameter, in the written `model.py` too, and goes back to all of them."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file, load_model

from rtool.converters import onnx_to_torch, save_bundle, write_back
from rtool.errors import InputError

WEIGHT = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)


def network(nodes, **weights):
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def two_layers(*names):
    """x W W: a Gemm that transposes and a MatMul that does not read one matrix."""
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), helper.make_node("MatMul", ["h", "w"], ["y"])]
    for node, name in zip(nodes, names, strict=False):
        node.name = name
    return network(nodes, w=WEIGHT)


def test_the_written_module_ties_what_the_file_shares(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Gemm", ["h", "v", "b"], ["g"], transB=1),
        helper.make_node("Mul", ["g", "b"], ["y"]),
    ]
    proto = network(nodes, w=WEIGHT, v=WEIGHT + 1, b=WEIGHT[0])
    module = onnx_to_torch(proto)
    bundle = save_bundle(module, tmp_path / "m.rtool", source=proto)
    text = (bundle / "model.py").read_text()
    namespace = {}
    exec(compile(text, "model.py", "exec"), namespace)
    alone = namespace["Model"]().eval()
    assert 'safetensors.torch.load_model(model, "weights.safetensors")' in text
    load_model(alone, bundle / "weights.safetensors")
    assert len(list(alone.parameters())) == len(list(module.parameters())) == 3
    x = torch.randn(2, 6)
    with torch.no_grad():
        assert torch.equal(alone(x), module(x))


def test_without_ties_a_plain_state_dict_is_enough(tmp_path):
    proto = network([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], w=WEIGHT)
    bundle = save_bundle(onnx_to_torch(proto), tmp_path / "m.rtool", source=proto)
    text = (bundle / "model.py").read_text()
    namespace = {}
    exec(compile(text, "model.py", "exec"), namespace)
    assert "model.load_state_dict(" in text
    namespace["Model"]().load_state_dict(load_file(bundle / "weights.safetensors"))


def trained(proto):
    """The module with its parameters moved apart."""
    module = onnx_to_torch(proto)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.add_(0.1 * (number + 1))
    return module


def test_uses_trained_apart_get_initializers_of_their_own():
    proto = two_layers("first", "second")
    module = trained(proto)
    x = np.random.default_rng(1).standard_normal((2, 6)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    result = ReferenceEvaluator(write_back(module, proto)).run(None, {"x": x})[0]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", [(), ("same", "same")])
def test_uses_that_cannot_be_told_apart_are_refused(names):
    proto = two_layers(*names)
    with pytest.raises(InputError, match=r"'w' is shared, its copy .* trained to other values"):
        write_back(trained(proto), proto)
