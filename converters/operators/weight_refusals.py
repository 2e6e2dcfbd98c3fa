"""The refusals of weights from which training cannot start, in the words that every command uses.

Weights of 16 bits and stored integers are results of an export. Rounded weights allow no tight tolerance, and trained
weights of full precision would not fit the scales of quantised ones.
"""

from __future__ import annotations

import onnx

from ...errors import InputError

__all__ = [
    "FOR_EXPORT",
    "FOR_EXPORT_TO_INT8",
    "double_weight_refused",
    "half_weight_refused",
    "nothing_to_train",
    "quantised_weight_of",
    "quantised_weight_refused",
]

FOR_EXPORT = "export the float32 model it was made from, with --fp16"
FOR_EXPORT_TO_INT8 = (
    "only steps that train nothing rewrite it as it is (--batch, --target, --embed-preprocessing); convert it with "
    "`rtool onnx2torch`, which makes its weights floats, and export the bundle, or export the float32 model it was "
    "made from, with --int8"
)
"""What to do instead, per command."""


def half_weight_refused(label: str, weight: str, dtype: str, advice: str) -> InputError:
    """A weight of 16 bits: torch and ONNX Runtime round between operators in different places."""
    return InputError(f"{label}: weight {weight!r} is {dtype}; {advice}")


def quantised_weight_refused(label: str, weight: str, advice: str) -> InputError:
    """A stored integer that is dequantised."""
    return InputError(f"{label}: is quantised (weight {weight!r} holds integers); {advice}")


def double_weight_refused(label: str, weight: str) -> InputError:
    """A weight of 64 bits: images, losses and optimizers are in float32."""
    return InputError(f"{label}: weight {weight!r} is float64, and training is in float32; export it again in float32")


def nothing_to_train(label: str) -> InputError:
    """A file without float weights."""
    return InputError(f"{label}: holds no float weights, so there is nothing to train; export the model with weights")


def quantised_weight_of(proto: onnx.ModelProto) -> str | None:
    """The first stored integer that a DequantizeLinear of the main graph reads; None where there is none."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    found = (node.input[0] for node in proto.graph.node if node.op_type == "DequantizeLinear")
    return next((name for name in found if name in stored), None)
