"""WebNN's budgets: how far an implementation may be from the exact result, operator by operator.

From the conformance tests of WebNN (web-platform-tests, `webnn/resources/utils.js` and `webnn/conformance_tests/`; the
reasons: https://github.com/webmachinelearning/webnn/issues/265#issuecomment-1256242643), for float32. A budget counts
units in the last place (ULP) of the result, or is an absolute error where a result may cancel to almost nothing.
Operators of ONNX that WebNN does not have, have no budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from .example import Example

__all__ = ["Budget", "budget_of"]


@dataclass(frozen=True)
class Budget:
    """How large an error may be: in units in the last place, or absolute."""

    ulp: float | None = None
    absolute: float | None = None


_MOVES = (
    *(
        "Cast",
        "CastLike",
        "Clip",
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
    ),
    *("GlobalMaxPool", "Identity", "Max", "MaxPool", "Min", "Pad", "Reshape", "ReverseSequence", "ScatterElements"),
    *("ScatterND", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where"),
)
"""They choose elements, so that nothing is rounded; Cast has a budget of 1, which float32 to float32 does not need."""
_FIXED = {
    **dict.fromkeys(_MOVES, Budget(0)),
    **dict.fromkeys(("Abs", "Ceil", "Floor", "Neg", "ReduceMax", "ReduceMin", "Relu", "Round", "Sign"), Budget(0)),
    **dict.fromkeys(("Add", "Sub", "Mul", "Sqrt", "LeakyRelu", "PRelu", "DequantizeLinear"), Budget(1)),
    **dict.fromkeys(("Div", "Reciprocal", "HardSigmoid"), Budget(2)),
    "Softsign": Budget(3),
    "HardSwish": Budget(4),
    "BatchNormalization": Budget(6),
    **dict.fromkeys(("Elu", "Softplus"), Budget(18)),
    **dict.fromkeys(("Exp", "Pow"), Budget(32)),
    "Sigmoid": Budget(34),
    "InstanceNormalization": Budget(840),
    "GRU": Budget(3),
    "LSTM": Budget(1),
    **dict.fromkeys(("Cos", "Erf", "LayerNormalization", "Log", "Sin", "Tan", "Tanh"), Budget(absolute=1 / 1024)),
}


def budget_of(example: Example) -> Budget | None:
    """The budget of an example; None where WebNN has none, as for a scatter that also adds or multiplies."""
    if _attribute(example, "reduction", b"none") in (b"add", b"mul"):
        return None
    fixed = _FIXED.get(example.operator)
    if fixed is not None:
        return fixed
    rule = _COUNTED.get(example.operator)
    return None if rule is None else Budget(rule(example))


def _shape(example: Example, index: int) -> tuple[int, ...]:
    """The shape of an input of the node."""
    name = example.node.input[index]
    if name in example.inputs:
        return example.inputs[name].shape
    return next(tuple(tensor.dims) for tensor in example.model.graph.initializer if tensor.name == name)


def _attribute(example: Example, name: str, default: object) -> object:
    found = next((a for a in example.node.attribute if a.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def _has(example: Example, index: int) -> bool:
    return index < len(example.node.input) and bool(example.node.input[index])


def _convolution(example: Example) -> float:
    """2 * kernel * channels / groups."""
    group = int(str(_attribute(example, "group", 1)))
    return 2 * math.prod(_shape(example, 1)[2:]) * _shape(example, 0)[1] / group


def _gemm(example: Example) -> float:
    """2 * K, one for each of alpha, beta and C."""
    k = _shape(example, 0)[0 if _attribute(example, "transA", 0) else 1]
    biased = _has(example, 2)
    return (
        2 * k
        + (_attribute(example, "alpha", 1.0) != 1.0)
        + biased
        + (biased and _attribute(example, "beta", 1.0) != 1.0)
    )


def _matmul(example: Example) -> float:
    """2 * K."""
    return 2 * _shape(example, 0)[-1]


def _window(example: Example) -> float:
    """Elements of a window + 2."""
    kernel = _attribute(example, "kernel_shape", None)
    return math.prod(kernel if isinstance(kernel, list) else _shape(example, 0)[2:]) + 2


def _softmax(example: Example) -> float:
    """3 * n + 3."""
    return 3 * _shape(example, 0)[int(str(_attribute(example, "axis", -1)))] + 3


def _cumulated(example: Example) -> float:
    """Elements along the axis."""
    return max(_shape(example, 0))


def _reduced(example: Example) -> int:
    """How many elements go into one."""
    shape = _shape(example, 0)
    axes = _attribute(example, "axes", None)
    if axes is None and _has(example, 1):
        axes = example.inputs[example.node.input[1]].tolist()
    if not isinstance(axes, list) or not axes:
        return 1 if axes == [] and _attribute(example, "noop_with_empty_axes", 0) else math.prod(shape)
    return math.prod(shape[axis] for axis in axes)


def _resize(example: Example) -> float:
    """84 for linear interpolation, 0 for the nearest element; WebNN has no cubic one, which counts as linear."""
    return 0 if _attribute(example, "mode", b"nearest") == b"nearest" else 84


_COUNTED: dict[str, Callable[[Example], float]] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _convolution),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalLpPool", "LpPool"), _window),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "CumSum": _cumulated,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Softmax": _softmax,
    **dict.fromkeys(("ReduceL1", "ReduceProd", "ReduceSum"), _reduced),
    "ReduceL2": lambda example: 2 * _reduced(example) + 1,
    "ReduceMean": lambda example: _reduced(example) + 2,
    "ReduceLogSum": lambda example: _reduced(example) + 18,
    "ReduceLogSumExp": lambda example: 2 * _reduced(example) + 18,
    "ReduceSumSquare": lambda example: 2 * _reduced(example),
}
