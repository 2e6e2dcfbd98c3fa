"""Examples of operators for which ONNX has no case of one node with floats: pools, sequences, subgraphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .example import Example

__all__ = ["own_examples"]

Array = NDArray[Any]
_OPSET = 18
_FLOAT = TensorProto.FLOAT


def own_examples() -> list[Example]:
    """One of each; seeded."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2, 3, 4, 4)).astype(np.float32)
    rows = generator.standard_normal((4, 3)).astype(np.float32)
    rois = np.array([[0, 0, 0, 3, 3], [1, 1, 0, 3, 2]], np.float32)
    split = helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0)
    at = helper.make_node("SequenceAt", ["parts", "one"], ["y"])
    one = numpy_helper.from_array(np.array(1), "one")
    return [
        _example("GlobalLpPool", [helper.make_node("GlobalLpPool", ["x"], ["y"], p=3)], {"x": x}, [2, 3, 1, 1]),
        _example(
            "MaxRoiPool",
            [helper.make_node("MaxRoiPool", ["x", "rois"], ["y"], pooled_shape=[2, 2])],
            {"x": x, "rois": rois},
            [2, 3, 2, 2],
        ),
        _example("SplitToSequence", [split, at], {"x": rows}, None, [one]),
        _example("SequenceAt", [split, at], {"x": rows}, None, [one]),
        _example(
            "ConcatFromSequence",
            [split, helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=1)],
            {"x": rows},
            None,
        ),
        _example("Cast", [helper.make_node("Cast", ["x"], ["y"], to=_FLOAT)], {"x": rows}, [4, 3]),
        _example("CastLike", [helper.make_node("CastLike", ["x", "like"], ["y"])], {"x": rows, "like": rows}, [4, 3]),
        _example("Trilu", [helper.make_node("Trilu", ["x"], ["y"])], {"x": rows}, [4, 3]),
        _example("If", [_branches()], {"x": rows}, [4, 3], [numpy_helper.from_array(np.array(True), "condition")]),
        _example(
            "Scan", [_running_sum()], {"x": rows}, [4, 3], [numpy_helper.from_array(np.zeros(3, np.float32), "zero")]
        ),
        _example(
            "Loop",
            [_repeated_product()],
            {"x": rows},
            [4, 3],
            [numpy_helper.from_array(np.array(3), "trips"), numpy_helper.from_array(np.array(True), "condition")],
        ),
    ]


def _example(
    operator: str,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Array],
    shape: list[int] | None,
    initializers: list[onnx.TensorProto] | None = None,
) -> Example:
    """A graph from float32 inputs to the output `y`, whose shape may be unknown."""
    graph = helper.make_graph(
        nodes,
        operator,
        [helper.make_tensor_value_info(name, _FLOAT, array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info("y", _FLOAT, shape)],
        initializers or [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    return Example(operator, f"own_{operator.lower()}", model, inputs)


def _value(name: str, shape: list[int], dtype: int = _FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _branches() -> onnx.NodeProto:
    """The exponential if the condition holds, else the sine."""
    branches = {
        name: helper.make_graph([helper.make_node(kind, ["x"], [kind])], kind, [], [_value(kind, [4, 3])])
        for name, kind in (("then_branch", "Exp"), ("else_branch", "Sin"))
    }
    return helper.make_node("If", ["condition"], ["y"], **branches)


def _running_sum() -> onnx.NodeProto:
    """Running sums of the sines of rows."""
    body = helper.make_graph(
        [
            helper.make_node("Sin", ["row"], ["sine"]),
            helper.make_node("Add", ["sum", "sine"], ["next"]),
            helper.make_node("Identity", ["next"], ["each"]),
        ],
        "body",
        [_value("sum", [3]), _value("row", [3])],
        [_value("next", [3]), _value("each", [3])],
    )
    return helper.make_node("Scan", ["zero", "x"], ["last", "y"], body=body, num_scan_inputs=1)


def _repeated_product() -> onnx.NodeProto:
    """`x` to the power of one more than the number of trips."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go"]), helper.make_node("Mul", ["power", "x"], ["next"])],
        "body",
        [_value("trip", [], TensorProto.INT64), _value("go_in", [], TensorProto.BOOL), _value("power", [4, 3])],
        [_value("go", [], TensorProto.BOOL), _value("next", [4, 3])],
    )
    return helper.make_node("Loop", ["trips", "condition", "x"], ["y"], body=body)
