"""Equalisation evens out the ranges of channels and does not change a bit of the network's outputs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters.precision.channel_equalisation import equalise_channels
from rtool.converters.precision.int8 import to_int8

SHAPE = (3, 10, 10)
WIDTH = 8
RANGES = np.logspace(-1.5, 1.5, WIDTH).reshape(-1, 1, 1, 1)


def conv_pair(between: list[onnx.NodeProto], *, groups: int = 1, seed: int = 0, last: str = "m") -> onnx.ModelProto:
    """A Conv whose channels differ a thousandfold in range, the nodes `between` ("c" to `last`), and another Conv."""
    generator = np.random.default_rng(seed)
    first = generator.standard_normal((WIDTH, 3, 3, 3)) * RANGES
    weights = {
        "k1": first,
        "b1": generator.standard_normal(WIDTH),
        "slope": generator.uniform(0.1, 0.4, (WIDTH, 1, 1)),
        "k2": generator.standard_normal((WIDTH, WIDTH // groups, 3, 3)),
        "b2": generator.standard_normal(WIDTH),
        "zero": np.array(0.0),
        "six": np.array(6.0),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["c"], name="first", pads=[1, 1, 1, 1]),
        *between,
        helper.make_node("Conv", [last, "k2", "b2"], ["y"], name="second", group=groups),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


def run(model: onnx.ModelProto, array: np.ndarray, *more: str) -> list[np.ndarray]:
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": array})


def node(kind: str, *inputs: str, output: str = "m", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), [output], name=kind.lower(), **attributes)


PASSING = {
    "relu": [node("Relu", "c")],
    "prelu": [node("PRelu", "c", "slope")],
    "leaky relu": [node("LeakyRelu", "c", alpha=0.1)],
    "pooling": [node("Relu", "c", output="r"), node("MaxPool", "r", kernel_shape=[2, 2])],
    "average": [node("AveragePool", "c", kernel_shape=[2, 2], pads=[1, 1, 1, 1])],
}


@pytest.mark.parametrize("groups", [1, 2, WIDTH])
@pytest.mark.parametrize("between", PASSING.values(), ids=PASSING)
def test_ranges_become_even_and_outputs_stay_the_same_bits(between, groups):
    model = conv_pair(between, groups=groups)
    before = model.SerializeToString()
    equalised = equalise_channels(model, images())
    assert model.SerializeToString() == before
    unseen = images(seed=1)
    np.testing.assert_array_equal(run(model, unseen)[0], run(equalised, unseen)[0])

    def unevenness(candidate: onnx.ModelProto) -> float:
        ranges = np.abs(run(candidate, images(), "m")[1]).max(axis=(0, 2, 3))
        return float(ranges.max() / ranges.min())

    # A depthwise reader allows any factor, up to rounding to powers of two; a dense one gets the square root.
    assert unevenness(equalised) <= (2.0 if groups == WIDTH else 2 * np.sqrt(unevenness(model)) * 3)
    assert unevenness(equalised) < 0.2 * unevenness(model)


BLOCKED = {
    "clip does not scale": ([node("Clip", "c", "zero", "six")], {}),
    "a second reader": ([node("Relu", "c"), node("Sigmoid", "c", output="other")], {}),
    "an add reads it": ([node("Add", "c", "c")], {}),
}


@pytest.mark.parametrize(("between", "options"), BLOCKED.values(), ids=BLOCKED)
def test_where_a_factor_would_change_the_function_nothing_moves(between, options):
    model = conv_pair(between, **options)
    equalised = equalise_channels(model, images())
    assert [t.SerializeToString() for t in equalised.graph.initializer] == [
        t.SerializeToString() for t in model.graph.initializer
    ]


def test_a_graph_output_and_shared_weights_are_left_alone():
    shown = conv_pair([node("Relu", "c")])
    shown.graph.output.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, None))
    shared = conv_pair([node("Relu", "c")])
    shared.graph.node.append(helper.make_node("Conv", ["x", "k1", "b1"], ["z"], name="again", pads=[1, 1, 1, 1]))
    shared.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    for model in (shown, shared):
        equalised = equalise_channels(model, images())
        for expected, got in zip(run(model, images(4, 1)), run(equalised, images(4, 1)), strict=True):
            np.testing.assert_array_equal(expected, got)


def test_a_dead_channel_stays_dead():
    model = conv_pair([node("Relu", "c")], groups=WIDTH)
    kernel, bias = (next(t for t in model.graph.initializer if t.name == name) for name in ("k1", "b1"))
    for tensor in (kernel, bias):
        array = numpy_helper.to_array(tensor).copy()
        array[3] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    equalised = equalise_channels(model, images())
    np.testing.assert_array_equal(run(model, images(4, 1))[0], run(equalised, images(4, 1))[0])


def test_quantisation_error_is_smaller_after_equalisation():
    """Against the same quantiser without equalisation, which a Clip at an unreachable bound prevents."""
    free = _wide_and_level(conv_pair([node("Relu", "c")], groups=WIDTH))
    blocked = _wide_and_level(conv_pair([node("Clip", "c", "zero", "six")], groups=WIDTH))
    next(t for t in blocked.graph.initializer if t.name == "six").CopyFrom(
        numpy_helper.from_array(np.float32(1e9), "six")
    )
    unseen = images(8, 1)
    expected = run(free, unseen)[0]
    np.testing.assert_array_equal(expected, run(blocked, unseen)[0])
    errors = [np.abs(run(to_int8(model, images()), unseen)[0] - expected).mean() for model in (free, blocked)]
    assert errors[0] < 0.2 * errors[1], errors


def _wide_and_level(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every channel twice, so that the depthwise layer is large enough to be quantised; it evens the ranges out."""
    doubled = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in doubled.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim and array.shape[0] == WIDTH:
            array = array / RANGES.astype(np.float32) if tensor.name == "k2" else array
            tensor.CopyFrom(numpy_helper.from_array(np.concatenate([array, array]), tensor.name))
    for each in doubled.graph.node:
        for attribute in each.attribute:
            if attribute.name == "group":
                attribute.i = 2 * WIDTH
    return doubled
