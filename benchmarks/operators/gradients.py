"""Gradients of converted operators against central differences in float64, along random directions.

For a function L of a tensor x, the derivative along a direction v is `(L(x + h v) - L(x - h v)) / 2h`, and by automatic
differentiation the sum of `grad L * v`. L is a randomly weighted sum of all float outputs, so that a wrong gradient of
any element shows. The inputs of an example are moved a little, and drawn again where the one-sided differences
disagree: there a kink or a step lies within h.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .example import Example, double_module_of
from .moving import held_inputs, moved

__all__ = ["NO_GRADIENT", "TOLERANCE", "GradientCheck", "check_gradients"]

TOLERANCE = 1e-5
"""Of the sum of the magnitudes that make up the derivative; measured: up to 6e-7, where it is near `_RESOLVED`."""
_STEP = 1e-5
"""h, where elements are of the order of one: the truncation is of the order h**2, the rounding 1e-16 / h."""
_KINK = 1e-2
"""Disagreement of the one-sided differences, as a share of the derivative; in a smooth point about h."""
_RESOLVED = 1e-5
"""The smallest derivative, as a share of the sum's terms, that their rounding (1e-16) lets the step resolve."""
_DRAWS = (0.05, 0.05, 0.05, 0.02, 0.01, 0.003)
"""How far each draw moves the inputs, relative to their own size; smaller moves stay in a narrow domain."""
_INTEGERS = "gives integers or truth values"
_STEPS = "piecewise constant: its derivative is zero wherever it has one"
_SIZES = "reads only the shape of its input"
_LITERAL = "gives a constant"
_INTEGER_INPUTS = "takes integers only"
NO_GRADIENT = {
    **dict.fromkeys(("And", "Not", "Or", "Xor", "BitShift", "BitwiseAnd", "BitwiseNot"), _INTEGER_INPUTS),
    **dict.fromkeys(("BitwiseOr", "BitwiseXor", "ConvInteger", "MatMulInteger"), _INTEGER_INPUTS),
    **dict.fromkeys(("ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN"), _INTEGERS),
    **dict.fromkeys(("Less", "LessOrEqual", "NonMaxSuppression", "NonZero", "OptionalHasElement"), _INTEGERS),
    **dict.fromkeys(("DynamicQuantizeLinear", "QuantizeLinear", "QLinearConv", "QLinearMatMul"), _INTEGERS),
    **dict.fromkeys(("Ceil", "Floor", "Round", "Sign", "Hardmax"), _STEPS),
    **dict.fromkeys(("EyeLike", "SequenceLength", "Shape", "Size"), _SIZES),
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix"), _LITERAL),
    **dict.fromkeys(("Constant", "ConstantOfShape"), _LITERAL),
    "BitCast": "reinterprets bits",
    "Range": "counts from numbers that are read as Python numbers",
    "Unique": "torch has no gradient for it, and ONNX declares none",
    **dict.fromkeys(("Adagrad", "Adam", "Momentum"), "a step of training; nothing is trained through it"),
}
"""Operator -> why it has no gradient to check."""


@dataclass(frozen=True)
class GradientCheck:
    """The gradients of one example, with respect to `tensors` inputs and parameters."""

    operator: str
    example: str
    tensors: int
    error: float
    """The largest over the tensors, as a share of the magnitudes that make up the derivative; infinity where no smooth
    point was found, NaN where a gradient is not finite.
    """


def check_gradients(example: Example, seed: int = 0) -> GradientCheck | None:
    """The gradients with respect to every float input and parameter.

    None where there is no such tensor, or the conversion refuses the example. Inputs that ONNX declares not
    differentiable stay as they are, see `held_inputs`.
    """
    found = double_module_of(example)
    if found is None:
        return None
    module, inputs = found
    module.requires_grad_(False)
    held = held_inputs(example)
    names = [name for name, x in inputs.items() if x.dtype == torch.float64 and x.numel() and name not in held]
    parameters = dict(module.named_parameters())
    if not (names or parameters) or not any(map(torch.is_floating_point, _outputs(module, inputs))):
        return None
    generator = torch.Generator().manual_seed(seed)
    for amount in _DRAWS:
        drawn = {name: moved(tensor, amount, generator) if name in names else tensor for name, tensor in inputs.items()}
        finite = [torch.isfinite(out) for out in _outputs(module, inputs)]
        tensors = [*(drawn[name] for name in names), *parameters.values()]
        error = _error(_weighted(module, drawn, finite, generator), tensors, generator)
        if error is not None:
            return GradientCheck(example.operator, example.name, len(names) + len(parameters), error)
    return GradientCheck(example.operator, example.name, len(names) + len(parameters), torch.inf)


def _error(loss: Callable[[], Tensor], tensors: Sequence[Tensor], generator: torch.Generator) -> float | None:
    """The largest error over `tensors`, which `loss` reads; None at a kink or outside the domain."""
    for tensor in tensors:
        tensor.requires_grad_()
    parts = loss()
    total, magnitude = parts.sum(), float(parts.detach().abs().sum())
    value = float(total.detach())
    if not math.isfinite(value):
        return None
    grads: Sequence[Tensor | None] = [None] * len(tensors)
    if total.requires_grad:
        grads = torch.autograd.grad(total, tensors, allow_unused=True)
    errors = []
    for tensor, grad in zip(tensors, grads, strict=True):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        before, after = _at(loss, tensor, -_STEP * direction), _at(loss, tensor, _STEP * direction)
        terms = torch.zeros(()) if grad is None else grad * direction
        numeric = (after - before) / (2 * _STEP)
        if not torch.isfinite(terms).all():
            return torch.nan
        size = max(float(terms.abs().sum()), abs(numeric), _RESOLVED * magnitude, 1e-9)
        bend = abs((after - value) - (value - before)) / _STEP
        error = abs(float(terms.sum()) - numeric)
        # The kink of one element of many bends little, but by twice the error that it makes; a wrong gradient by none.
        if not bend <= _KINK * size or (error > TOLERANCE * size and bend > error):
            return None
        errors.append(error / size)
    return max(errors)


def _weighted(
    module: torch.nn.Module, inputs: Mapping[str, Tensor], finite: Sequence[Tensor], generator: torch.Generator
) -> Callable[[], Tensor]:
    """The terms of a sum of all float outputs with random weights, computed again at each call; elements that are not
    `finite` in the example itself, such as a masked score, do not count.
    """
    weights = [torch.randn(mask.shape, generator=generator, dtype=torch.float64) for mask in finite]

    def loss() -> Tensor:
        outputs = zip(weights, finite, _outputs(module, inputs), strict=True)
        return torch.cat([(w * torch.where(m, x, 0.0)).flatten() for w, m, x in outputs if x.is_floating_point()])

    return loss


def _outputs(module: torch.nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    results = module(*inputs.values())
    return results if isinstance(results, tuple) else (results,)


def _at(loss: Callable[[], Tensor], tensor: Tensor, shift: Tensor) -> float:
    """The loss with `tensor` moved by `shift`."""
    kept = tensor.detach().clone()
    with torch.no_grad():
        tensor += shift
        value = float(loss().sum())
        tensor.copy_(kept)
    return value
