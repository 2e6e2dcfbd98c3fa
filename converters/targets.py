"""What a deployment target can read: the newest ONNX opset and IR version, stated on the safe side.

ONNX Runtime refuses an IR version it does not know and an opset newer than its own; a Triton release ships one ONNX
Runtime (24.10 has 1.19). Where the exact limit of a release was not checked, the table has one it surely reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from ..errors import InputError, nearest

__all__ = ["TARGETS", "Target", "find_target", "pin_to_target"]


@dataclass(frozen=True)
class Target:
    """The newest opset and IR version a target reads."""

    opset: int
    ir_version: int


TARGETS: Mapping[str, Target] = {
    "triton:24.10": Target(21, 10),
    "triton:25.09": Target(22, 10),
    "triton:26.07": Target(23, 11),
    "onnxruntime:1.17": Target(20, 9),
    "onnxruntime:1.19": Target(21, 10),
    "onnxruntime:1.20": Target(21, 10),
    "onnxruntime:1.22": Target(22, 10),
    "onnxruntime:1.27": Target(23, 11),
    "tensorrt": Target(20, 10),
}


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        InputError: it is not in the table; the nearest ones are listed.
    """
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}; {nearest(name, TARGETS)}")
    return TARGETS[name]


def pin_to_target(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy of `model` with an IR version the target reads.

    Nothing but the number changes: what newer IR versions added is only metadata to older readers, or types that an
    older opset cannot use.

    Raises:
        InputError: the opset is newer than the target's.
    """
    target = find_target(name)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset > target.opset:
        raise InputError(
            f"opset {opset} is newer than {name} reads ({target.opset}); choose a newer target, or lower the opset "
            "of the source with onnx.version_converter and convert that"
        )
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    pinned.ir_version = min(pinned.ir_version, target.ir_version)
    return pinned
