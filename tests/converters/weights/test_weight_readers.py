"""A weight that is also a fixed argument of an operator trains, and the argument stays what it was."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rtool.converters import load_bundle, onnx_to_torch, save_bundle, write_back
from rtool.converters.bundles.bundle import bundle_to_onnx
from rtool.converters.records.record import require_record
from rtool.converters.weights.weight_readers import fixed_reads, stored_origins
from rtool.converters.weights.writing_back import NoPlaceError

X = (4 * np.random.default_rng(0).standard_normal((3, 4))).astype(np.float32)
PADS = numpy_helper.from_array(np.array([0, 1, 0, 1]), "pads")
W = "block.w"
"""A path of a state_dict, which shows that the number was learned where arithmetic reads it."""
BODIES = {
    "clip": (6.0, [("Clip", ["x", "", W], ["a"]), ("Mul", ["a", W], ["y"])]),
    "clip after": (1.0, [("Mul", ["x", W], ["a"]), ("Clip", ["a", "", W], ["y"])]),
    "pad": (0.5, [("Add", ["x", W], ["a"]), ("Pad", ["a", "pads", W], ["y"])]),
    "power": (2.0, [("Abs", ["x"], ["b"]), ("Pow", ["b", W], ["a"]), ("Mul", ["a", W], ["y"])]),
    "behind an Identity": (
        6.0,
        [("Identity", [W], ["v"]), ("Clip", ["x", "", "v"], ["a"]), ("Mul", ["a", W], ["y"])],
    ),
    "read through a Reshape": (
        6.0,
        [("Clip", ["x", "", W], ["a"]), ("Unsqueeze", [W, "axis"], ["v"]), ("Mul", ["a", "v"], ["y"])],
    ),
}


def network(body, *, named=True):
    start, nodes = BODIES[body]
    tensors = [numpy_helper.from_array(np.array(start, np.float32), W), PADS]
    tensors += [numpy_helper.from_array(np.array([0]), "axis")]
    graph = helper.make_graph(
        [
            helper.make_node(kind, *rest, name=f"node_{index}" if named else "")
            for index, (kind, *rest) in enumerate(nodes)
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def trained(proto):
    """The module with its one weight moved, and what it then gives."""
    module = onnx_to_torch(proto)
    (weight,) = module.parameters()
    with torch.no_grad():
        weight.mul_(0.7)
        return module, module(torch.from_numpy(X)).numpy()


def run(proto):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


@pytest.mark.parametrize("body", BODIES)
def test_a_fixed_argument_keeps_its_value_when_the_weight_it_was_merged_with_trains(body):
    proto = network(body)
    assert write_back(onnx_to_torch(proto), proto).SerializeToString() == proto.SerializeToString()
    module, expected = trained(proto)
    written = write_back(module, proto)
    onnx.checker.check_model(written, full_check=True)
    assert len(written.graph.node) == len(proto.graph.node)
    assert np.allclose(run(written), expected, rtol=1e-6)
    assert not np.allclose(run(proto), expected, rtol=1e-2)


@pytest.mark.parametrize("body", BODIES)
def test_a_bundle_keeps_both_also_when_it_is_saved_again(body, tmp_path):
    proto = network(body)
    module, expected = trained(proto)
    first = save_bundle(module, tmp_path / "a.rtool", source=proto)
    second = save_bundle(load_bundle(first).module, tmp_path / "b.rtool", source=first)
    for bundle in (first, second):
        with torch.no_grad():
            assert np.array_equal(load_bundle(bundle).module(torch.from_numpy(X)).numpy(), expected)
        assert np.allclose(run(bundle_to_onnx(bundle)), expected, rtol=1e-6)


def test_where_unnamed_nodes_hide_which_is_which_it_is_refused():
    proto = network("clip", named=False)
    assert write_back(onnx_to_torch(proto), proto).SerializeToString() == proto.SerializeToString()
    with pytest.raises(NoPlaceError, match="also as a fixed argument"):
        write_back(trained(proto)[0], proto)


@pytest.mark.parametrize("name", ["cnn", "vit"])
@pytest.mark.parametrize(("kind", "opset"), [("ts", 17), ("dy", 18)])
def test_weights_of_ordinary_networks_are_no_fixed_arguments(name, kind, opset, exported):
    proto = exported(name, kind, opset)[1]
    record = require_record(onnx_to_torch(proto))
    assert fixed_reads(proto, record, stored_origins(proto.graph)) == {}
