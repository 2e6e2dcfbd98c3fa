"""What must be scaled together: every factor that the groups allow leaves the network's outputs as they are."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters.precision.channel_equalisation import equalise_channels
from rtool.converters.precision.pointwise_merging import merge_pointwise

WIDTH, SIZE = 6, 8


class Network:
    """Grows a graph on values of WIDTH channels, each with channels whose ranges differ a hundredfold."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.values = ["x"]

    def node(self, kind: str, inputs: list[str], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"n_{name}", **attributes))
        return name

    def weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = array.astype(np.float32)
        return name

    def conv(self, value: str, *, size: int = 1, channels: int = WIDTH, groups: int = 1) -> str:
        kernel = self.rng.normal(size=(channels, WIDTH // groups, size, size))
        kernel *= np.exp(self.rng.uniform(-2.3, 2.3, (channels, 1, 1, 1)))
        names = [self.weight(kernel), self.weight(self.rng.normal(size=channels))]
        return self.node("Conv", [value, *names], pads=[size // 2] * 4, group=groups)

    def gated(self, values: list[str]) -> str:
        """The sum of values times their gates, which share one pair of layers, as in OSNet."""
        shapes = ((3, WIDTH, 1, 1), (3,), (WIDTH, 3, 1, 1), (WIDTH,))
        shared = [self.weight(self.rng.normal(size=shape)) for shape in shapes]
        axes = self.weight(np.array([2, 3]))
        self.weights[axes] = np.array([2, 3])
        scaled = []
        for value in values:
            hidden = self.node("Conv", [self.node("ReduceMean", [value, axes], keepdims=1), *shared[:2]])
            gate = self.node("Sigmoid", [self.node("Conv", [self.node("Relu", [hidden]), *shared[2:]])])
            scaled.append(self.node("Mul", [value, gate]))
        total = scaled[0]
        for value in scaled[1:]:
            total = self.node("Add", [total, value])
        return total

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH, SIZE, SIZE])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        return onnx.shape_inference.infer_shapes(made)


def images(count: int = 16) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, WIDTH, SIZE, SIZE)).astype(np.float32)


def run(model: onnx.ModelProto, *names: str) -> list[np.ndarray]:
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(shown.SerializeToString(), options).run(None, {"x": images(4)})


def assert_same(model: onnx.ModelProto, equalised: onnx.ModelProto) -> None:
    for wanted, found in zip(run(model), run(equalised), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def ranges(model: onnx.ModelProto, *names: str) -> list[np.ndarray]:
    """The largest magnitude of each channel."""
    return [np.abs(array).max((0, 2, 3)) for array in run(model, *names)[1:]]


def test_streams_that_are_gated_and_summed_are_evened_out_together():
    network = Network(0)
    stem = network.node("Relu", [network.conv("x")])
    stream = network.node("Relu", [network.conv(stem, size=3)])
    first = network.node("Relu", [network.node("Add", [network.gated([stream, stem]), stem])])
    deep = network.node("Relu", [network.node("Add", [network.conv(first, size=3), first])])
    model = network.model(network.conv(deep, groups=WIDTH))
    equalised = equalise_channels(model, images(), exact=False)
    assert_same(model, equalised)
    found, wanted = (ranges(each, stem, stream, first, deep) for each in (equalised, model))
    factors = [before / after for before, after in zip(wanted, found, strict=True)]
    assert factors[0].max() > 2 * factors[0].min()
    for other in factors[1:]:  # a sum needs the same factors on both sides
        np.testing.assert_allclose(other, factors[0], rtol=1e-4)
    uneven = [max(float(each.max() / each.min()) for each in shown) for shown in (found, wanted)]
    assert uneven[0] < uneven[1]


@pytest.mark.parametrize("seed", range(12))
def test_any_network_stays_what_it_is(seed):
    network = Network(seed)
    rng = network.rng

    def pick() -> str:
        return network.values[rng.integers(max(0, len(network.values) - 4), len(network.values))]

    for _ in range(14):
        kind = rng.choice(["conv", "deep", "relu", "pool", "add", "gate", "mul", "sigmoid", "clip", "constant", "mix"])
        network.values.append(
            {
                "conv": lambda: network.conv(pick()),
                "deep": lambda: network.conv(pick(), size=3, groups=int(rng.choice([1, 2, WIDTH]))),
                "relu": lambda: network.node("Relu", [pick()]),
                "pool": lambda: network.node("MaxPool", [pick()], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
                "add": lambda: network.node("Add", [pick(), pick()]),
                "gate": lambda: network.gated([pick(), pick()]),
                "mul": lambda: network.node("Mul", [pick(), pick()]),
                "sigmoid": lambda: network.node("Sigmoid", [pick()]),
                "clip": lambda: network.node("Clip", [pick(), "", network.weight(np.array(2.0))]),
                "constant": lambda: network.node("Add", [pick(), network.weight(rng.normal(size=(WIDTH, 1, 1)))]),
                "mix": lambda: network.node("Transpose", [pick()], perm=[0, 1, 3, 2]),
            }[str(kind)]()
        )
    model = network.model(network.conv(network.values[-1]), network.values[int(rng.integers(1, 14))])
    for candidate in (model, merge_pointwise(model)[0]):
        assert_same(model, equalise_channels(candidate, images(), exact=False))


def test_a_value_that_a_loop_body_reads_keeps_its_scale():
    network = Network(0)
    value = network.node("Relu", [network.conv("x")])
    body = helper.make_graph(
        [helper.make_node("Add", [value, value], ["twice"])],
        "then",
        [],
        [helper.make_tensor_value_info("twice", TensorProto.FLOAT, None)],
    )
    network.weights["yes"] = np.array(True)
    chosen = network.node("If", ["yes"], then_branch=body, else_branch=body)
    model = network.model(network.conv(value), chosen)
    assert_same(model, equalise_channels(model, images(), exact=False))


def shared_bias(network: Network) -> list[str]:
    """Of Convs whose inputs have other numbers of channels; a deduplicated zero bias is one."""
    narrow = network.node("Relu", [network.conv("x", channels=4)])
    wide = network.node("Relu", [network.conv("x", channels=8)])
    bias = network.weight(np.zeros(WIDTH))
    kernels = [network.weight(network.rng.normal(size=(WIDTH, channels, 1, 1))) for channels in (4, 8)]
    outputs = [
        network.node("Conv", [value, kernel, bias]) for value, kernel in zip((narrow, wide), kernels, strict=True)
    ]
    return [network.conv(network.node("Relu", [value])) for value in outputs]


def shared_weight_of_other_groups(network: Network) -> list[str]:
    kernel = network.weight(network.rng.normal(size=(WIDTH, 3, 1, 1)))
    narrow = network.node("Relu", [network.conv("x", channels=3)])
    wide = network.node("Relu", [network.conv("x")])
    outputs = [network.node("Conv", [narrow, kernel]), network.node("Conv", [wide, kernel], group=2)]
    return [network.conv(network.node("Relu", [value])) for value in outputs]


def product_of_gates(network: Network) -> list[str]:
    gates = [network.node("Sigmoid", [network.conv("x")]) for _ in range(2)]
    total = network.node("Add", [network.conv("x"), network.node("Mul", gates)])
    square = network.node("Add", [network.conv("x"), network.node("Mul", [gates[0], gates[0]])])
    return [network.conv(total), network.conv(square)]


def conv_of_a_constant(network: Network) -> list[str]:
    constant = network.weight(network.rng.normal(size=(1, WIDTH, SIZE, SIZE)))
    return [network.conv(network.node("Add", [network.conv(constant), network.conv("x")]))]


def body_with_the_same_weights(network: Network) -> list[str]:
    kernel, bias = network.weight(network.rng.normal(size=(WIDTH, WIDTH, 1, 1))), network.weight(np.ones(WIDTH))
    value = network.node("Relu", [network.node("Conv", ["x", kernel, bias])])
    read = network.weight(
        network.rng.normal(size=(WIDTH, WIDTH, 1, 1)) * np.logspace(-2, 2, WIDTH).reshape(1, -1, 1, 1)
    )
    nodes = [
        helper.make_node("Conv", ["x", kernel, bias], ["inside"]),
        helper.make_node("Conv", ["inside", read], ["result"]),
    ]
    body = helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)])
    network.weights["yes"] = np.array(True)
    return [network.node("Conv", [value, read]), network.node("If", ["yes"], then_branch=body, else_branch=body)]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "build",
    [shared_bias, shared_weight_of_other_groups, product_of_gates, conv_of_a_constant, body_with_the_same_weights],
)
def test_what_cannot_be_scaled_is_left_alone(build, exact):
    network = Network(3)
    model = network.model(*build(network))
    equalised = equalise_channels(model, images(), exact=exact)
    assert_same(model, equalised)
