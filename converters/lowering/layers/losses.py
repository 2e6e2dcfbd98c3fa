"""Losses of exported training graphs, and the optimizer steps of ONNX's training preview."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from ..exact.optimizers import adagrad_step, adam_step, momentum_step
from ..graph_builder import Weight
from ..operation import Lowered, Op
from ..registry import lowers

__all__: list[str] = []

_TRAINING = "ai.onnx.preview.training"


def _loss(op: Op, function: Any) -> fx.Node:
    target = op.x(1) if op.dtype(1).name == "INT64" else op.method("long", op.x(1))
    options: dict[str, Any] = {"reduction": op.attr_string("reduction", "mean")}
    if op.has_attribute("ignore_index"):
        options["ignore_index"] = op.attr_int("ignore_index")
    return op.call(function, op.x(0), target, _class_weights(op), **options)


def _class_weights(op: Op) -> fx.Node | None:
    """The weights per class, as a buffer: torch's losses have no gradient for them."""
    if not op.has(2):
        return None
    return op.builder.attribute(Weight(op.value(2)), op.node, trainable=False) if op.is_weight(2) else op.x(2)


@lowers("NegativeLogLikelihoodLoss", since=12, seen=22)
def negative_log_likelihood(op: Op) -> Lowered:
    """`F.nll_loss`."""
    return _loss(op, F.nll_loss)


@lowers("SoftmaxCrossEntropyLoss", since=12, seen=13)
def softmax_cross_entropy(op: Op) -> Lowered:
    """`F.cross_entropy`, and the logarithms of the probabilities as second output."""
    return _loss(op, F.cross_entropy), op.call(torch.log_softmax, op.x(0), 1) if op.uses_output(1) else None


def _steps(op: Op, function: Any, states: int, **options: Any) -> list[fx.Node | None]:
    """One optimizer step per tensor; outputs are grouped by kind, not by tensor."""
    tensors = (op.count - 2) // (2 + states)
    results = []
    for tensor in range(tensors):
        inputs = [op.x(2 + kind * tensors + tensor) for kind in range(2 + states)]
        results.append(op.call(function, op.x(0), op.x(1), *inputs, **options))
    return [op.call(operator.getitem, result, kind) for kind in range(1 + states) for result in results]


@lowers("Momentum", since=1, seen=1, domain=_TRAINING)
def momentum(op: Op) -> Lowered:
    """Stochastic gradient descent with momentum."""
    return _steps(
        op,
        momentum_step,
        1,
        alpha=op.attr_float("alpha", 0.0),
        beta=op.attr_float("beta", 0.0),
        decay=op.attr_float("norm_coefficient", 0.0),
        nesterov=op.attr_string("mode") == "nesterov",
    )


@lowers("Adagrad", since=1, seen=1, domain=_TRAINING)
def adagrad(op: Op) -> Lowered:
    """Adagrad (Duchi et al., 2011)."""
    return _steps(
        op,
        adagrad_step,
        1,
        rate_decay=op.attr_float("decay_factor", 0.0),
        epsilon=op.attr_float("epsilon", 1e-6),
        decay=op.attr_float("norm_coefficient", 0.0),
    )


@lowers("Adam", since=1, seen=1, domain=_TRAINING)
def adam(op: Op) -> Lowered:
    """Adam with bias-corrected moments (arXiv:1412.6980)."""
    return _steps(
        op,
        adam_step,
        2,
        alpha=op.attr_float("alpha", 0.9),
        beta=op.attr_float("beta", 0.999),
        epsilon=op.attr_float("epsilon", 1e-6),
        decay=op.attr_float("norm_coefficient", 0.0),
        decay_after=op.attr_float("norm_coefficient_post", 0.0),
    )
