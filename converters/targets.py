"""What a deployment target can read: the newest ONNX opset and IR version, stated on the safe side.

ONNX Runtime refuses an IR version it does not know and an opset newer than its own; a Triton release ships one ONNX
Runtime (24.10 has 1.19). Where the exact limit of a version was not checked, the table has one it surely reads.
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


_RUNTIMES: Mapping[str, Target] = {
    "1.17": Target(20, 9),
    "1.18": Target(21, 10),
    "1.19": Target(21, 10),
    "1.20": Target(21, 10),
    "1.21": Target(22, 10),
    "1.22": Target(22, 10),
    "1.23": Target(22, 10),
    "1.24": Target(23, 11),
    "1.27": Target(23, 11),
    "1.28": Target(23, 11),
}
"""By version of ONNX Runtime."""

_TRITON: Mapping[str, tuple[str, ...]] = {
    "1.17": ("24.04",),
    "1.18": ("24.05", "24.06", "24.07", "24.08"),
    "1.19": ("24.09", "24.10", "24.11"),
    "1.20": ("24.12", "25.01", "25.02"),
    "1.21": ("25.03", "25.04"),
    "1.22": ("25.05", "25.06", "25.07"),
    "1.23": ("25.08", "25.09", "25.10", "25.11", "25.12", "26.01"),
    "1.24": ("26.02", "26.03", "26.04", "26.05", "26.06"),
    "1.27": ("26.07",),
    "1.28": ("26.08",),
}
"""The releases that ship each, from the server's docs/introduction/compatibility.md, "ONNX Runtime Versions"."""

TARGETS: Mapping[str, Target] = {
    **{f"onnxruntime:{version}": target for version, target in _RUNTIMES.items()},
    **{f"triton:{release}": _RUNTIMES[version] for version, releases in _TRITON.items() for release in releases},
    "tensorrt": Target(20, 10),
}
"""Every `--target`."""


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
