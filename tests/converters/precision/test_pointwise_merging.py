"""Merged convolutions compute what the pair computed, borders included; other pairs stay."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rtool.converters.precision.pointwise_merging import merge_pointwise

rng = np.random.default_rng(0)


def pair(first: dict[str, object], second: dict[str, object], *, bias: bool = False, read_twice: bool = False):
    tensors = {
        "p": rng.normal(size=(6, 4, 1, 1)),
        "d": rng.normal(size=(6, 1, 3, 3)),
        "b": rng.normal(size=6),
        "c": rng.normal(size=6),
    }
    nodes = [
        helper.make_node("Conv", ["x", "p", *(["b"] if bias else [])], ["m"], "point", **first),
        helper.make_node("Conv", ["m", "d", "c"], ["y"], "depth", group=6, **second),
    ]
    outputs = ["y", *(["m"] if read_twice else [])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 7, 5])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"]) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    return ReferenceEvaluator(model).run(None, {"x": np.float32(np.random.default_rng(1).normal(size=(2, 4, 7, 5)))})


@pytest.mark.parametrize(
    "second", [{"pads": [1, 1, 1, 1]}, {"strides": [2, 2], "pads": [0, 1, 2, 1]}, {"dilations": [2, 2]}]
)
def test_a_merged_pair_computes_the_same_at_the_borders_too(second):
    model = pair({}, second)
    merged, count = merge_pointwise(model)
    onnx.checker.check_model(merged)
    assert (count, [node.op_type for node in merged.graph.node]) == (1, ["Conv"])
    assert {tensor.name for tensor in merged.graph.initializer} == {"d_merged", "c"}
    # Sums of up to 36 products near 10, in another order: a few units in the last place, which is 1e-6 there.
    np.testing.assert_allclose(run(merged)[0], run(model)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "options"),
    [
        ({}, {"bias": True}),  # zero padding of P's output is not P of a padded input then
        ({}, {"read_twice": True}),
        ({"strides": [2, 2]}, {}),
        ({"pads": [1, 1, 1, 1]}, {}),
    ],
)
def test_a_pair_that_is_not_linear_or_is_read_elsewhere_stays(first, options):
    model = pair(first, {"pads": [1, 1, 1, 1]}, **options)
    merged, count = merge_pointwise(model)
    assert count == 0
    for found, expected in zip(run(merged), run(model), strict=True):
        np.testing.assert_array_equal(found, expected)
