"""Gradients of every operator that converts, against central differences in float64."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import rtool
from rtool.benchmarks.operators import gradients
from rtool.benchmarks.operators.example import Example, double_module_of
from rtool.benchmarks.operators.gradients import NO_GRADIENT, TOLERANCE, check_gradients

PIECEWISE_CONSTANT = ("Ceil", "Floor", "Round", "Sign", "Hardmax")


def checks_of(examples, seed):
    found = [check_gradients(example, seed) for of_one in examples.values() for example in of_one]
    return [check for check in found if check is not None and check.operator not in NO_GRADIENT]


def wrong(checks):
    return [f"{c.operator} ({c.example}): {c.error:.3g}" for c in checks if not c.error <= TOLERANCE]


def test_every_operator_has_right_gradients_or_a_reason_for_none(examples):
    checks = checks_of(examples, seed=0)
    assert wrong(checks) == []
    checked = {check.operator for check in checks}
    assert checked | set(NO_GRADIENT) == {row.operator for row in rtool.ops().operators}
    assert len(checks) > 800


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_gradients_are_right_at_other_points(examples, seed):
    assert wrong(checks_of(examples, seed)) == []


@pytest.mark.parametrize("operator", PIECEWISE_CONSTANT)
def test_steps_are_flat_where_they_are_smooth(examples, operator):
    assert NO_GRADIENT[operator].startswith("piecewise constant")
    for example in examples[operator]:
        module, inputs = double_module_of(example)
        (x,) = inputs.values()
        result = module(x.requires_grad_())
        if result.requires_grad:
            assert not torch.autograd.grad(result.sum(), x)[0].any()
        if operator == "Hardmax":  # of the others ONNX declares no derivative, so nothing is compared
            assert check_gradients(example).error == 0.0


def test_weights_are_checked_as_parameters_too(examples):
    counts = {check_gradients(example).tensors for example in examples["Conv"] if example.name.endswith("_weights")}
    assert counts == {2}


class Altered(torch.autograd.Function):
    """The exponential, with a gradient that is wrong at one element, missing, or not finite."""

    @staticmethod
    def forward(context, x, fault):
        context.save_for_backward(x)
        context.fault = fault
        return x.exp()

    @staticmethod
    def backward(context, grad):
        (x,) = context.saved_tensors
        right = grad * x.exp()
        right[0] = right[0] * {"wrong": 1.01, "missing": 0.0, "not finite": torch.nan}[context.fault]
        return right, None


class Exponential(torch.nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def forward(self, x):
        return Altered.apply(x, self.fault)


@pytest.mark.parametrize("fault", ["wrong", "missing", "not finite"])
def test_a_wrong_gradient_of_one_element_shows(monkeypatch, fault):
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)
    monkeypatch.setattr(gradients, "double_module_of", lambda example: (Exponential(fault), {"x": x}))
    check = check_gradients(exponential())
    assert not check.error <= TOLERANCE


def exponential():
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [50]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "exponential", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return Example("Exp", "exponential", model, {"x": np.linspace(-1, 1, 50).astype(np.float32)})


def test_an_exponential_of_torch_itself_passes():
    assert check_gradients(exponential()).error < 1e-8
