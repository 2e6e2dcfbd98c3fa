"""The corrected reference evaluator gives what ONNX Runtime gives, in the forms that operators had at every opset."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import rtool
from rtool.converters import onnx2torch
from rtool.converters.reference.evaluator import CORRECTED, reference_evaluator


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


IMAGES, VOLUME = random(2, 3, 6, 5), random(1, 2, 5, 5, 5)
STATISTICS = [random(3), random(3, 1)[:, 0], random(3, 2)[:, 1], np.abs(random(3, 3)[:, 0]) + 0.5]
PER_ELEMENT = [*(random(3, 6, 5) + index for index in range(3)), np.abs(random(3, 6, 5)) + 0.5]
GRID = (np.random.default_rng(0).random((2, 4, 4, 2)) * 2.6 - 1.3).astype(np.float32)
SCALES = [np.array([1, 1, 2, 3], np.float32)]
QUANTISED = [np.array(0.02, np.float32), np.array(3, np.uint8)]


def cases():
    """Operator, opset, input, constants, attributes: each is wrong or absent in onnx's own evaluator."""
    for opset in (7, 8, 9, 12, 13):
        yield "BatchNormalization", opset, IMAGES, STATISTICS, {"epsilon": 1e-3, "momentum": 0.9}
    yield "BatchNormalization", 7, IMAGES, PER_ELEMENT, {"spatial": 0}
    for opset in (7, 11, 12):
        for name in ("Softmax", "LogSoftmax", "Hardmax"):
            yield name, opset, IMAGES, [], {}
            yield name, opset, IMAGES, [], {"axis": 2}
    yield "LRN", 13, IMAGES, [], {"size": 3, "alpha": 0.3, "beta": 0.7, "bias": 1.5}
    yield "LpNormalization", 11, IMAGES, [], {"axis": 2, "p": 1}
    yield "GlobalMaxPool", 11, VOLUME, [], {}
    yield "GlobalMaxPool", 11, random(2, 3, 9), [], {}
    yield "MaxPool", 11, IMAGES, [], {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}
    yield "MaxPool", 11, IMAGES, [], {"kernel_shape": [2, 3], "pads": [1, 1, 0, 0]}
    yield "MaxPool", 11, VOLUME, [], {"kernel_shape": [2, 2, 2], "pads": [1, 1, 1, 1, 1, 1]}
    for mode in ("bilinear", "bicubic"):
        yield "GridSample", 16, IMAGES, [GRID], {"mode": mode, "padding_mode": "border"}
    yield "GridSample", 20, IMAGES, [GRID], {"mode": "cubic", "padding_mode": "border", "align_corners": 1}
    yield "Upsample", 7, IMAGES, [], {"scales": [1.0, 1.0, 2.0, 3.0]}
    yield "Upsample", 9, IMAGES, SCALES, {"mode": "linear"}
    yield "Resize", 10, IMAGES, SCALES, {"mode": "linear"}
    yield "DequantizeLinear", 13, np.arange(6, dtype=np.uint8).reshape(2, 3), QUANTISED, {}


def right_at_newest():
    """Forms that onnx's own evaluator has right: the replacement of the operator must not change them."""
    for padding in ("zeros", "border", "reflection"):
        for mode in ("linear", "nearest", "cubic"):
            if (mode, padding) != ("cubic", "border"):
                for aligned in (0, 1):
                    yield (
                        "GridSample",
                        20,
                        IMAGES,
                        [GRID],
                        {
                            "mode": mode,
                            "padding_mode": padding,
                            "align_corners": aligned,
                        },
                    )
    for name in ("Softmax", "LogSoftmax", "Hardmax"):
        yield name, 13, IMAGES, [], {"axis": 1}
    yield "InstanceNormalization", 6, IMAGES, STATISTICS[:2], {"epsilon": 1e-3}
    yield "BatchNormalization", 15, IMAGES, STATISTICS, {"epsilon": 1e-3}
    yield "LpNormalization", 11, IMAGES, [], {"axis": 1, "p": 2}
    yield "Resize", 13, IMAGES, [np.zeros(0, np.float32), *SCALES], {"mode": "linear"}
    for gap in (1, 2):
        for step in (1, 2, 3):
            yield "MaxPool", 11, IMAGES, [], {"kernel_shape": [2, 2], "strides": [step, step], "dilations": [gap, gap]}
    for ceil in (0, 1):
        yield "MaxPool", 11, IMAGES, [], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": ceil}
    yield "MaxPool", 11, IMAGES, [], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
    yield "MaxPool", 11, random(2, 3, 9), [], {"kernel_shape": [3], "strides": [2]}


def model_of(operator, opset, x, constants, attributes):
    names = [f"w{index}" if len(array.shape) != 1 or len(array) else "" for index, array in enumerate(constants)]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    weights = [numpy_helper.from_array(w, name) for w, name in zip(constants, names, strict=True) if name]
    given = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    graph = helper.make_graph([node], "g", [given], [helper.make_value_info("y", onnx.TypeProto())], weights)
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    )


def label(case):
    return f"{case[0]}-{case[1]}"


@pytest.mark.parametrize("case", [*cases(), *right_at_newest()], ids=label)
def test_every_form_gives_what_onnx_runtime_gives(case):
    model, x = model_of(*case), case[2]
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    (got,) = reference_evaluator(model).run(None, {"x": x})
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [*cases()], ids=label)
def test_each_replacement_is_needed(case):
    """Once onnx mends one of them, it can go."""
    model, x = model_of(*case), case[2]
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    try:
        (own,) = ReferenceEvaluator(model).run(None, {"x": x})
    except Exception:  # absent, or it breaks
        return
    assert own.shape != expected.shape or np.abs(own - expected).max() > 1e-3


def test_a_batchnorm_in_training_mode_of_an_old_opset_is_refused_not_guessed():
    node = helper.make_node("BatchNormalization", list("xabcd"), ["y", "m", "v"])
    model = model_of("BatchNormalization", 9, IMAGES, STATISTICS, {})
    model.graph.node[0].CopyFrom(node)
    for tensor, name in zip(model.graph.initializer, "abcd", strict=True):
        tensor.name = name
    with pytest.raises(NotImplementedError, match="training mode"):
        reference_evaluator(model).run(None, {"x": IMAGES})


@pytest.mark.parametrize(
    ("operator", "opset", "parameters"),
    [("InstanceNormalization", 6, 2), ("BatchNormalization", 9, 4), ("BatchNormalization", 15, 4)],
)
def test_parameters_of_another_number_than_the_channels_are_refused(operator, opset, parameters):
    model = model_of(operator, opset, IMAGES, [np.ones(1, np.float32)] * parameters, {})
    with pytest.raises(ValueError, match="expected 3 parameters"):
        reference_evaluator(model).run(None, {"x": IMAGES})


def test_no_other_place_makes_an_evaluator():
    root = Path(rtool.__file__).parent
    rooms = [root / name for name in ("converters", "finetune", "serving", "benchmarks", "cli")]
    users = [path for room in rooms for path in room.rglob("*.py") if "ReferenceEvaluator(" in path.read_text()]
    assert [path.name for path in users] == ["evaluator.py"]
    assert all(operator.op_domain == "" for operator in CORRECTED)


def test_float64_tells_whose_error_it_is_behind_an_old_batchnorm(tmp_path):
    """As PP-OCRv4's detector: opset 12, and a Sigmoid that ONNX Runtime computes inexactly."""
    weight = random(3, 3, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Sigmoid", ["n"], ["y"]),
    ]
    shift = np.full(3, -12, np.float32)
    weights = {"w": weight, "s": np.full(3, 0.1, np.float32), "b": shift, "m": STATISTICS[2], "v": STATISTICS[3]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    onnx.save(model, tmp_path / "old.onnx")
    result = onnx2torch(tmp_path / "old.onnx", tmp_path / "old.rtool")
    assert any("an error of the reference's float32 kernels" in entry.reason for entry in result.parity)
