"""RNN, GRU and LSTM, with weights in ONNX's layout, so that they can be written back; torch's kernels compute them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ..exact.recurrent import native_gru, native_lstm, native_rnn, recur
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []

_USUAL = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_DIRECTIONS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
_DEFAULTS: dict[str, tuple[float, float]] = {
    "Relu": (0.0, 0.0),
    "Tanh": (0.0, 0.0),
    "Sigmoid": (0.0, 0.0),
    "Affine": (1.0, 0.0),
    "LeakyRelu": (0.01, 0.0),
    "ThresholdedRelu": (1.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, 0.0),
    "Softsign": (0.0, 0.0),
    "Softplus": (0.0, 0.0),
}
_WITH_ALPHA = ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")
_WITH_BETA = ("Affine", "ScaledTanh", "HardSigmoid")


def _activations(op: Op, directions: int) -> list[tuple[str, float, float]]:
    names = [str(name) for name in op.raw_attribute("activations") or _USUAL[op.type] * directions]
    if len(names) != directions * len(_USUAL[op.type]):
        raise op.refuse(f"{len(names)} activations for {directions} direction(s); re-export the model")
    alphas, betas = list(op.attr_floats("activation_alpha") or []), list(op.attr_floats("activation_beta") or [])
    chosen = []
    for name in names:
        known = next((key for key in _DEFAULTS if key.lower() == name.lower()), None)
        if known is None:
            raise op.refuse(f"activation {name} is unknown; known: {', '.join(_DEFAULTS)}")
        alpha, beta = _DEFAULTS[known]
        # Each list holds values only for the activations that take one, in order.
        alpha = alphas.pop(0) if alphas and known in _WITH_ALPHA else alpha
        beta = betas.pop(0) if betas and known in _WITH_BETA else beta
        chosen.append((known, alpha, beta))
    return chosen


def _optional(op: Op, index: int) -> fx.Node | None:
    return op.x(index) if op.has(index) else None


@lowers("RNN", since=7, seen=22, trainable=True)
@lowers("GRU", since=7, seen=22, trainable=True)
@lowers("LSTM", since=7, seen=22, trainable=True)
def recurrent(op: Op) -> Lowered:
    """Call torch's kernels for the usual activations and sequences of full length, else `recur`."""
    direction = op.attr_string("direction", "forward")
    if direction not in _DIRECTIONS:
        raise op.refuse(f"direction={direction} is unknown; known: {', '.join(_DIRECTIONS)}")
    reverse = _DIRECTIONS[direction]
    recurrence = op.shape(2)
    hidden = op.attr_int("hidden_size", 0)
    if recurrence is not None and hidden and isinstance(recurrence[-1], int) and recurrence[-1] != hidden:
        raise op.refuse(f"hidden_size {hidden} contradicts its weights {list(recurrence)}; re-export it")
    activations = _activations(op, len(reverse))
    batch_first = bool(op.attr_int("layout", 0))
    x = _swapped(op, op.x(0), batch_first)
    states = [None if not op.has(i) else _swapped(op, op.x(i), batch_first) for i in (5, 6)]
    weights = [op.x(1), op.x(2), _optional(op, 3)]
    if _is_native(op, activations, direction):
        results = _native(op, x, weights, states, activations, len(reverse))
    else:
        flag = bool(op.attr_int("linear_before_reset", 0) or op.attr_int("input_forget", 0))
        options = (reverse, activations, op.attr_float("clip", 0.0), flag)
        results = op.call(recur, op.type, x, *weights, _optional(op, 4), *states, _optional(op, 7), *options)
    return _outputs(op, results, batch_first)


def _swapped(op: Op, x: fx.Node, batch_first: bool) -> fx.Node:
    return op.call(torch.transpose, x, 0, 1) if batch_first else x


def _is_native(op: Op, activations: list[tuple[str, float, float]], direction: str) -> bool:
    if direction == "reverse" or op.has(4) or op.has(7) or op.has_attribute("clip") or op.attr_int("input_forget", 0):
        return False
    names = [name for name, _, _ in activations]
    if op.type == "RNN":
        return names[0] in ("Tanh", "Relu") and len(set(names)) == 1
    usual = names == _USUAL[op.type] * (len(names) // len(_USUAL[op.type]))
    return usual and (op.type == "LSTM" or bool(op.attr_int("linear_before_reset", 0)))


def _native(
    op: Op, x: fx.Node, weights: list[Any], states: list[Any], activations: list[Any], directions: int
) -> fx.Node:
    if op.type == "LSTM":
        return op.call(native_lstm, x, *weights, *states, directions)
    if op.type == "GRU":
        return op.call(native_gru, x, *weights, states[0], directions)
    return op.call(native_rnn, x, *weights, states[0], directions, activations[0][0] == "Relu")


def _outputs(op: Op, results: fx.Node, batch_first: bool) -> list[fx.Node | None]:
    """The outputs in ONNX's layout; batch first they are [B, T, D, H] and [B, D, H]."""
    found: list[fx.Node | None] = []
    for index in range(len(op.node.outputs)):
        if not op.uses_output(index):
            found.append(None)
            continue
        output = op.call(operator.getitem, results, index)
        if batch_first:
            order = [2, 0, 1, 3] if index == 0 else [1, 0, 2]
            output = op.call(torch.permute, output, order)
        found.append(output)
    return found
