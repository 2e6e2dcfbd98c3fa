"""Names of inputs and outputs are kept whatever the values inside are called."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from rtool.converters.passes.interface_names import with_interface_names
from rtool.errors import InputError

WEIGHT = np.arange(4, dtype=np.float32)
A, B = np.array([[1, -2, 3, -4]], np.float32), np.array([[10, 20, 30, 40]], np.float32)


def graph() -> onnx.ModelProto:
    """relu(a) + w, twice as outputs, with b and w as outputs as they are."""
    nodes = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Add", ["r", "w"], ["s"])]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "ab"]
    shapes = {"s": ["N", 4], "b": ["N", 4], "w": [4]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in "ssbw"]
    made = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(WEIGHT, "w")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["r", "s"], ["w", "r_1", "a", "b"]),
        (["b", "a"], ["r", "w", "s", "class"]),
        (["a/b", "a_b"], ["a:b", "a b", "self", "日本"]),
        ([" ", "0"], ["-1", "None", "import", "é"]),
    ],
)
def test_any_names_outside_give_the_same_numbers(inputs, outputs):
    renamed = with_interface_names(graph(), inputs, outputs)
    onnx.checker.check_model(renamed)
    session = ort.InferenceSession(renamed.SerializeToString())
    assert [value.name for value in session.get_inputs()] == inputs
    assert [value.name for value in session.get_outputs()] == outputs
    got = session.run(None, dict(zip(inputs, (A, B), strict=True)))
    total = np.maximum(A, 0) + WEIGHT
    for value, wanted in zip(got, (total, total, B, WEIGHT), strict=True):
        np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("outputs", [["x", "x", "y", "z"], ["", "x", "y", "z"], ["a", "x", "y", "z"], ["x"]])
def test_names_that_no_graph_can_have_are_refused(outputs):
    with pytest.raises(InputError, match=r"unique|outputs"):
        with_interface_names(graph(), ["a", "b"], outputs)
