"""Simplify an ONNX graph with onnxslim or onnxsim; the result is used only if it computes the same.

Neither simplifier is always right, so its result is checked:

1. the simplified model passes onnx's checker;
2. names of inputs and outputs, and the opset, are unchanged, and the IR version is not newer;
3. its outputs in ONNX Runtime equal the source's within a tolerance.

Where a check fails, the source is returned with the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import onnx
from numpy.typing import NDArray

from ...errors import InputError, nearest
from ..runtime.parity import Parity, measure_parity
from ..runtime.probes.probing import probe_inputs
from ..runtime.reference_runner import WillingRunner

__all__ = ["Simplification", "Simplifier", "simplify"]

Simplifier = Literal["onnxslim", "onnxsim"]

TOLERANCE = 1e-5
"""Largest relative error; above 0 because fusing and folding change the order of sums."""
_PROBES = 2


@dataclass(frozen=True)
class Simplification:
    """The simplified model, or the source where a check failed; then `rolled_back` is the reason."""

    model: onnx.ModelProto
    method: Simplifier
    nodes_before: int
    nodes_after: int
    parity: Parity | None
    rolled_back: str | None


def simplify(
    model: onnx.ModelProto,
    method: Simplifier = "onnxslim",
    *,
    inputs: Sequence[NDArray[Any]] | None = None,
    tolerance: float = TOLERANCE,
) -> Simplification:
    """Simplify a copy of `model`.

    Args:
        model: the source; not changed.
        method: "onnxslim" or "onnxsim".
        inputs: arrays for the comparison, one per graph input; random ones by default.
        tolerance: largest relative error of the comparison, see `Parity.max_rel`.

    Raises:
        InputError: an unknown method, or ONNX Runtime cannot run `model` itself.

    Examples:
        >>> result = rtool.converters.simplify(onnx.load("model.onnx"))
        >>> [node.op_type for node in result.model.graph.node]
        ['Conv', 'Relu', 'ReduceMean']
    """
    if method not in get_args(Simplifier):
        raise InputError(f"unknown simplifier {method!r}; {nearest(method, get_args(Simplifier))}")
    reference = WillingRunner(model)
    arrays = tuple(inputs) if inputs is not None else probe_inputs(reference.inputs, _PROBES)
    expected = reference.run(*arrays)
    before = len(model.graph.node)
    parity = None
    try:
        simplified = _run(model, method)
        _check_interface(model, simplified)
        parity = measure_parity(expected, reference.also(simplified).run(*arrays))
        if not parity.max_rel <= tolerance:
            raise InputError(f"it changed the outputs: max relative error {parity.max_rel:.3g} > {tolerance:g}")
    except Exception as error:  # simplifiers raise any type of error; the source is still valid
        reason = f"{method}: {error}".splitlines()[0]
        return Simplification(model, method, before, before, parity, reason)
    return Simplification(simplified, method, before, len(simplified.graph.node), parity, None)


def _run(model: onnx.ModelProto, method: Simplifier) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if method == "onnxslim":
        import onnxslim

        log = logging.getLogger("onnxslim")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            result = onnxslim.slim(copy)
        finally:
            log.setLevel(level)
    else:
        import onnxsim

        result, _ = onnxsim.simplify(copy)
    assert isinstance(result, onnx.ModelProto)
    onnx.checker.check_model(result, full_check=True)
    return result


def _check_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Check that the names of inputs and outputs, the opset and the IR version are the caller's."""
    for kind in ("input", "output"):
        a, b = (
            [value.name for value in getattr(model.graph, kind) if value.name not in _weights(model)]
            for model in (before, after)
        )
        if a != b:
            raise InputError(f"it renamed the {kind}s from {a} to {b}")
    if _opsets(before) != _opsets(after) or after.ir_version > before.ir_version:
        raise InputError("it changed the opset or IR version")


def _weights(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {opset.domain: opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")}
