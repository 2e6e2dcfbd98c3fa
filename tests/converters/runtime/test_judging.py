"""Whose error a difference is: float64 decides, and a wrong weight is never taken for rounding."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import rtool
from rtool.cli.main import run
from rtool.converters import Preprocessing, export, load_bundle, onnx2torch, onnx_to_torch
from rtool.converters.bundles.conversion_reference import Reference
from rtool.converters.files.model_file import ModelFile
from rtool.converters.runtime.double_precision import exact_outputs
from rtool.converters.runtime.judging import judge, unknown
from rtool.converters.runtime.probability_outputs import probability_outputs
from rtool.converters.runtime.reference_runner import ReferenceRunner, open_onnx
from rtool.converters.runtime.runners import OnnxRunner, TorchRunner
from rtool.errors import GateError, InputError


def head(bias, activation="Sigmoid", ir_version=8):
    """A Conv whose outputs lie about `bias`, and a Sigmoid: float32 [N, 3, 12, 12] -> [N, 1, 10, 10]."""
    weight = (np.random.default_rng(0).standard_normal((1, 3, 3, 3)) * 0.1).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node(activation, ["c"], ["y"], name="act"),
    ]
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([bias], np.float32), "b")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 10, 10])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=ir_version)


def logits(model, x):
    """The numbers before the Sigmoid, in float64, by NumPy."""
    weight, bias = (numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight) + bias[None, :, None, None]


@pytest.mark.parametrize("bias", [-8, -12])
def test_an_inexact_sigmoid_of_onnx_runtime_does_not_refuse_a_right_conversion(bias, tmp_path):
    onnx.save(head(bias), tmp_path / "head.onnx")
    result = onnx2torch(tmp_path / "head.onnx", tmp_path / "head.rtool")
    assert max(entry.parity.max_rel for entry in result.parity) > 1e-5  # ONNX Runtime is off by that
    assert any("an error of the reference's float32 kernels" in entry.reason for entry in result.parity)
    x = np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)
    expected = 1 / (1 + np.exp(-logits(head(bias), x)))
    (exact,) = exact_outputs(OnnxRunner(head(bias)), [x])
    np.testing.assert_allclose(exact, expected, rtol=1e-12)
    module = onnx_to_torch(head(bias))
    (wide,) = exact_outputs(TorchRunner(module), [x])
    np.testing.assert_allclose(wide, expected, rtol=1e-12)
    (got,) = TorchRunner(module).run(x)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_runtime_that_computes_another_function_is_named_and_fails_a_comparison_as_run(tmp_path):
    """With align_corners, ONNX counts 7.5 pixels where 5 are scaled by 1.5, as its node tests show; ONNX Runtime 7."""
    scales = numpy_helper.from_array(np.array([1, 1, 1.5, 1.5], np.float32), "scales")
    options = {"mode": "cubic", "coordinate_transformation_mode": "align_corners"}
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    conv = helper.make_node("Conv", ["x", "w"], ["c"])
    nodes = [conv, helper.make_node("Resize", ["c", "", "scales"], ["y"], **options)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 5, 5])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 7, 7])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight, scales])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((1, 1, 5, 5)).astype(np.float32)
    runner = OnnxRunner(tmp_path / "m.onnx")
    (defined,), (found,) = exact_outputs(runner, [x]), runner.run(x)
    if np.abs(defined - found).max() < 0.05 * np.abs(defined).max():
        pytest.fail("ONNX Runtime resizes as ONNX defines it: this test needs another operator")
    result = onnx2torch(tmp_path / "m.onnx", tmp_path / "m.rtool")
    assert "departs from ONNX's definition" in result.parity[0].reason
    report = rtool.bench.parity(tmp_path / "m.onnx", tmp_path / "m.rtool")
    assert not report.passed
    assert "departs from ONNX's definition" in report.reason


@pytest.mark.parametrize("factor", [1.001, 1.5, 0.0])
@pytest.mark.parametrize("bias", [-12, 0])
def test_a_wrong_weight_is_refused_even_where_all_outputs_are_near_zero(factor, bias):
    file = ModelFile.in_memory(head(bias))
    module = onnx_to_torch(file)
    with torch.no_grad():
        next(module.parameters()).mul_(factor)
    with pytest.raises(GateError, match=r"differs from ONNX Runtime .* in float64 it still is by .*: another function"):
        Reference.of(file, 1e-5).measure(module, 1e-5, "converted")


def test_the_second_oracle_runs_only_where_the_first_says_no():
    def never():
        raise AssertionError("float64 was computed")

    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 1 + 1e-6, np.float32)
    assert judge([a], [b], 1e-5, exact_reference=never, exact_candidate=never).agrees
    wrong = judge([a], [2 * b], 1e-5, exact_reference=lambda: [a], exact_candidate=lambda: [2 * b])
    assert not wrong.agrees
    assert "another function" in wrong.reason


def test_a_probability_is_compared_by_absolute_error_and_other_outputs_are_not():
    expected = np.array([[0.2, 0.1]], np.float32)
    near = expected + np.float32(5e-6)
    known = {"exact_reference": unknown, "exact_candidate": unknown}
    assert judge([expected], [near], 1e-5, probabilities=(0,), **known).agrees
    assert not judge([expected], [near], 1e-5, **known).agrees
    assert not judge([expected], [expected + np.float32(2e-5)], 1e-5, probabilities=(0,), **known).agrees
    hidden = np.array([[6e-6]], np.float32)  # a wrong weight, within 1e-5
    assert not judge([hidden], [1.5 * hidden], 1e-5, probabilities=(0,), **known).agrees


def test_rounding_that_both_sides_have_is_accepted_and_more_is_not():
    truth = np.array([[1.0, 2.0]])
    theirs, ours, worse = truth * (1 + 4e-5), truth * (1 - 6e-5), truth * (1 - 2e-4)
    same = {"exact_reference": lambda: [truth], "exact_candidate": lambda: [truth]}
    assert judge([theirs], [ours], 1e-5, **same).agrees
    refused = judge([theirs], [worse], 1e-5, **same)
    assert not refused.agrees
    assert "amplifies the rounding" in refused.reason
    assert not judge([theirs], [ours], 0.0, **same).agrees  # asks for equal bits


def test_probabilities_are_what_a_sigmoid_or_softmax_gives():
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node("Concat", ["s", "p"], ["both"], axis=1),
        helper.make_node("Transpose", ["both"], ["a"]),
        helper.make_node("Mul", ["s", "x"], ["b"]),
        helper.make_node("Concat", ["s", "x"], ["c"], axis=1),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("a", "b", "c", "x", "p")]
    assert probability_outputs(helper.make_graph(nodes, "g", [], outputs)) == (0, 4)


def blocks(ir_version):
    """A Conv whose weight is quantised in ragged blocks of 16 along 27 columns; IR 14 is newer than ONNX Runtime."""
    generator = np.random.default_rng(0)
    stored = generator.integers(-100, 100, (8, 27)).astype(np.int8)
    scales = (generator.random((8, 2)) * 0.01).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["flat"], axis=1, block_size=16),
        helper.make_node("Reshape", ["flat", "to"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    weights = [("q", stored), ("s", scales), ("to", np.array([8, 3, 3, 3]))]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 6, 6])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=ir_version)
    onnx.checker.check_model(model)
    return model, (stored * np.repeat(scales, 16, axis=1)[:, :27]).reshape(8, 3, 3, 3)


def test_a_valid_file_that_onnx_runtime_refuses_is_compared_with_the_reference_evaluator(tmp_path, capsys):
    newest = onnx.IR_VERSION
    model, weight = blocks(newest)
    with pytest.raises(Exception, match="IR version"):  # once it reads this one, the test needs another valid file
        onnxruntime.InferenceSession(model.SerializeToString())
    onnx.save(model, tmp_path / "blocks.onnx")
    assert run(["onnx2torch", str(tmp_path / "blocks.onnx"), "-o", str(tmp_path / "blocks.rtool")]) == 0
    said = capsys.readouterr()
    assert "onnx.reference" in said.out + said.err
    module = onnx_to_torch(model)
    np.testing.assert_allclose(next(module.parameters()).detach().numpy(), weight, rtol=1e-6)
    runner = open_onnx(model)
    assert isinstance(runner, ReferenceRunner)
    assert run(["bench", "parity", str(tmp_path / "blocks.onnx"), str(tmp_path / "blocks.rtool")]) == 0
    assert "ONNX Runtime refuses this valid file" in capsys.readouterr().out


def one_block():
    """A Conv whose bias is one block of 8 with one scale, as face detectors are published: ONNX Runtime loads the file,
    and its kernel refuses to run it. Also the bias.
    """
    generator = np.random.default_rng(0)
    stored, scale = generator.integers(-100, 100, 8).astype(np.int8), np.array([0.01], np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["b"], axis=0, block_size=8),
        helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", kernel_shape=[3, 3]),
    ]
    weights = [("q", stored), ("s", scale), ("w", generator.standard_normal((8, 3, 3, 3)).astype(np.float32))]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), stored * scale


def test_a_file_that_onnx_runtime_loads_and_cannot_run_goes_all_the_way(tmp_path, capsys):
    model, bias = one_block()
    session = onnxruntime.InferenceSession(model.SerializeToString())
    with pytest.raises(Exception, match="block_size"):
        session.run(None, {"x": np.zeros((1, 3, 8, 8), np.float32)})
    source, bundle, back, opened = (str(tmp_path / n) for n in ("m.onnx", "m.rtool", "back.onnx", "open.onnx"))
    onnx.save(model, source)
    assert run(["onnx2torch", source, "-o", bundle]) == 0
    assert run(["export", bundle, "-o", back]) == 0
    assert "computed by onnx.reference" in capsys.readouterr().out
    assert run(["bench", "parity", source, bundle]) == 0
    assert run(["bench", "parity", source, back]) == 0
    assert "ONNX Runtime refuses this valid file" in capsys.readouterr().out
    assert run(["export", bundle, "--batch", "dynamic", "-o", opened]) == 0
    x = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    weight = torch.from_numpy(numpy_helper.to_array(model.graph.initializer[2]).copy())
    expected = torch.nn.functional.conv2d(torch.from_numpy(x), weight, torch.from_numpy(bias).float())
    (got,) = ReferenceRunner(opened).run(x)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_file_that_neither_can_load_is_refused_with_the_cause_of_onnx_runtime():
    model = head(0)
    model.graph.node[1].op_type = "Sigmund"
    with pytest.raises(InputError, match="ONNX Runtime cannot load it"):
        open_onnx(model)


def test_onnx2torch_takes_a_tolerance(tmp_path, capsys):
    onnx.save(head(0), tmp_path / "head.onnx")
    arguments = ["onnx2torch", str(tmp_path / "head.onnx"), "-o", str(tmp_path / "head.rtool")]
    assert run([*arguments, "--tolerance", "1e-12"]) == 1
    assert "allowed 1e-12" in capsys.readouterr().err
    assert run([*arguments, "--tolerance", "1e-4"]) == 0


def test_rounding_that_the_runtime_has_in_any_case_is_accepted_only_where_the_function_is_the_same():
    truth = np.array([[1.0, 2.0]])
    exact, rough = truth * (1 + 1e-7), truth * (1 - 1e-3)
    same = {"exact_reference": lambda: [truth], "exact_candidate": lambda: [truth]}
    assert not judge([exact], [rough], 1e-5, **same).agrees
    verdict = judge([exact], [rough], 1e-5, **same, known_error=lambda: 8e-4)
    assert verdict.agrees
    assert "the source itself is off by 0.0008" in verdict.reason
    assert not judge([exact], [rough], 1e-5, **same, known_error=lambda: 3e-4).agrees
    other = {"exact_reference": lambda: [truth], "exact_candidate": lambda: [rough]}
    refused = judge([exact], [rough], 1e-5, **other, known_error=lambda: 1.0)
    assert not refused.agrees
    assert "another function" in refused.reason


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_an_export_is_judged_by_what_onnx_runtime_makes_of_the_source_itself(factor, tmp_path):
    """Its Sigmoid of -12 is off by 1 %, in the source as in the export; the module's is right."""
    model = head(-12)
    model.graph.node[-1].output[0] = "p"
    model.graph.node.append(helper.make_node("Mul", ["p", "many"], ["y"]))  # no probability any more
    model.graph.initializer.append(numpy_helper.from_array(np.array(1e5, np.float32), "many"))
    onnx.save(model, tmp_path / "head.onnx")
    onnx2torch(tmp_path / "head.onnx", tmp_path / "head.rtool")
    module = load_bundle(tmp_path / "head.rtool").module
    with torch.no_grad():
        next(module.parameters()).mul_(factor)  # trained a little
    result = export(module, tmp_path / "back.onnx", source=tmp_path / "head.onnx", preprocessing=Preprocessing(12, 12))
    (step,) = (step for step in result.steps if step.name == "write-back")
    assert step.max_rel > 1e-3
    assert "the source itself is off by" in step.detail
    x = np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)
    (exact,) = exact_outputs(OnnxRunner(tmp_path / "back.onnx"), [x])
    changed = head(-12)
    changed.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(changed.graph.initializer[0]) * np.float32(factor), "w")
    )
    np.testing.assert_allclose(exact, 1e5 / (1 + np.exp(-logits(changed, x))), rtol=1e-6)
