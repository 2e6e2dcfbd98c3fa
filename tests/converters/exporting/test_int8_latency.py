"""What int8 costs in time: the line that an export prints, and which model each operator's time belongs to."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rtool.converters.exporting.int8_latency import Int8Latency, measure_int8_latency
from rtool.converters.precision.int8 import to_int8


def test_a_slower_model_names_the_operators_that_lose_and_a_faster_one_does_not():
    operators = {"Conv": (4.0, 4.5), "QuantizeLinear": (0.0, 1.25), "Mul": (1.0, 0.5), "Sigmoid": (0.0, 0.2)}
    slower = str(Int8Latency(16, 8.0, 10.0, operators))
    assert slower.startswith("slower than float32, 1.25 of its time (10.00 ms per batch of 16 instead of 8.00")
    assert slower.endswith("QuantizeLinear +1.25 ms, Conv +0.50 ms, Sigmoid +0.20 ms")
    assert str(Int8Latency(16, 8.0, 4.0, operators)).startswith("0.50 of float32's time")


def test_both_models_are_profiled_on_the_batch_of_the_model():
    weight = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv", kernel_shape=[3, 3])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 3, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8, 7, 7])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    images = np.random.default_rng(1).normal(size=(20, 3, 9, 9)).astype(np.float32)
    found = measure_int8_latency(model, to_int8(model, images), (images,))
    assert found.batch == 4
    assert min(found.float32, found.int8) > 0
    assert found.operators["Conv"][0] > 0
    assert found.operators["QuantizeLinear"][0] == 0 < found.operators["QuantizeLinear"][1]
