"""Deployment targets: the newest ONNX opset and IR version each can read, and which operator domains.

ONNX Runtime refuses an IR version it does not know and an opset newer than its own; a Triton release ships one ONNX
Runtime (24.10 ships 1.19). Where the exact limit of a version was not checked, the table has a lower one that is sure
to work. No target is sure to read bfloat16: ONNX Runtime has no CPU kernels for it and few CUDA kernels, and the opset
of TensorRT in this table is older than bfloat16 Convs. `pin_to_target` applies these rules:

1. an opset newer than the target's is refused;
2. an operator of a domain that the target does not have is refused, unless the file defines it as a function;
3. bfloat16 is refused;
4. a newer IR version is lowered to the target's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from ...errors import InputError, nearest

__all__ = [
    "TARGETS",
    "Target",
    "check_precision",
    "find_target",
    "pin_to_target",
    "target_problems",
    "triton_runtime",
]

_ONNX = frozenset({"", "ai.onnx"})
_RUNTIME_DOMAINS = _ONNX | {"ai.onnx.ml", "com.microsoft"}


@dataclass(frozen=True)
class Target:
    """The newest opset and IR version a target reads, and the domains whose operators it has."""

    opset: int
    ir_version: int
    domains: frozenset[str] = _RUNTIME_DOMAINS


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
"""Version of ONNX Runtime -> what it reads."""

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
"""Version of ONNX Runtime -> the Triton releases that ship it, from the server's docs/introduction/compatibility.md,
"ONNX Runtime Versions"."""

TARGETS: Mapping[str, Target] = {
    **{f"onnxruntime:{version}": target for version, target in _RUNTIMES.items()},
    **{f"triton:{release}": _RUNTIMES[version] for version, releases in _TRITON.items() for release in releases},
    "tensorrt": Target(20, 10, _ONNX),
}
"""Every name that `--target` accepts."""


_NO_BFLOAT16 = "{name} may not read bfloat16; use --fp16, or no --target for a reader that does"


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        InputError: it is not in the table; the message lists the nearest ones.
    """
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}; {nearest(name, TARGETS)}")
    return TARGETS[name]


def check_precision(name: str, precision: str | None) -> None:
    """Check, before any slow step, that a target can read models of `precision` ("fp16", "bf16", "int8").

    Raises:
        InputError: there is no such target, or it may not read such models.
    """
    find_target(name)
    if precision == "bf16":
        raise InputError(_NO_BFLOAT16.format(name=name))


def target_problems(model: onnx.ModelProto, name: str) -> Iterator[str]:
    """Why the target cannot read `model`, its IR version aside, which `pin_to_target` lowers: the rules above.

    Raises:
        InputError: an unknown target.
    """
    target = find_target(name)
    opset = next((entry.version for entry in model.opset_import if entry.domain in _ONNX), 0)
    if opset > target.opset:
        yield (
            f"opset {opset} is newer than {name} reads ({target.opset}); choose a newer target, or lower the opset "
            "of the source with onnx.version_converter and convert that"
        )
    parsed = ir.from_proto(model)
    functions = {(function.domain, function.name) for function in model.functions}
    nodes = [*parsed.graph.all_nodes(), *(node for body in parsed.functions.values() for node in body.all_nodes())]
    for node in nodes:
        if node.domain not in target.domains and (node.domain, node.op_type) not in functions:
            yield (
                f"node '{node.name}' ({node.op_type} of {node.domain}) is not known to {name}; choose a target of ONNX "
                "Runtime, or re-export the model without it"
            )
    if any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in model.graph.initializer) or any(
        node.op_type == "Cast" and node.attributes.get_int("to", 0) == onnx.TensorProto.BFLOAT16 for node in nodes
    ):
        yield _NO_BFLOAT16.format(name=name)


def pin_to_target(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy of `model` with an IR version that the target reads.

    Only that number changes: newer IR versions added metadata, which older readers ignore, and dtypes that an older
    opset cannot use.

    Raises:
        InputError: an unknown target, or a model that it cannot read, see the rules above.
    """
    for problem in target_problems(model, name):
        raise InputError(problem)
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    pinned.ir_version = min(pinned.ir_version, find_target(name).ir_version)
    return pinned


def triton_runtime(release: str) -> str:
    """The version of ONNX Runtime in a Triton release: "1.19" for "24.10".

    Raises:
        InputError: a release that is not in the table; the message lists the nearest ones.
    """
    find_target(f"triton:{release}")
    return next(version for version, releases in _TRITON.items() if release in releases)
