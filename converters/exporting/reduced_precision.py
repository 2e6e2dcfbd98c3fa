"""The steps that reduce the precision of an export: float16, bfloat16 or int8, measured with real rounding."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

from ...errors import InputError
from ..passes.preprocessing_embedding import EMBEDDED_PREFIX
from ..precision.half import Float32Node, HalfConverter, HalfType
from ..precision.half_search import search_half
from ..precision.int8 import check_slots
from ..precision.int8_ranges import CalibrationMethod
from ..precision.int8_search import search_int8
from ..records.json_text import parse_json
from ..runtime.half_emulation import emulate_half
from ..runtime.runners import OnnxRunner
from .int8_latency import measure_int8_latency
from .step_log import StepLog

__all__ = ["HALF_COSINE", "INT8_COSINE", "check_int8", "convert_to_half", "convert_to_int8", "read_float32_nodes"]

HALF_COSINE = {"float16": 0.9999, "bfloat16": 0.999}
"""Smallest cosine between an embedding in float32 and in 16 bits; bfloat16 has 8 bits of mantissa, float16 has 11."""
INT8_COSINE = 0.99
"""The same for int8."""
_BFLOAT16_OPSET = 22
"""The first opset whose Conv takes bfloat16."""


def convert_to_half(
    model: onnx.ModelProto,
    log: StepLog,
    *,
    dtype: HalfType = "float16",
    converter: HalfConverter = "rtool",
    keep_io_types: bool = True,
    keep: Collection[str] = (),
    min_cosine: float | None = None,
) -> tuple[onnx.ModelProto, tuple[Float32Node, ...]]:
    """Convert to 16 bits, except for an embedded preprocessing; nodes that fail the gate return to float32.

    A float16 file must load in ONNX Runtime. Its CPU has no bfloat16 kernels, so a bfloat16 file passes the checker and
    is measured by `half_emulation` alone, whose numbers tests hold to those of ONNX's reference evaluator on the file.

    Raises:
        GateError: the gate is missed.
        InputError: a node in `keep` does not exist, the opset cannot be raised for bfloat16, or `converter` fails.
    """
    gate = HALF_COSINE[dtype] if min_cosine is None else min_cosine
    if dtype == "bfloat16":
        model = _at_opset(model, _BFLOAT16_OPSET)
    embedded = [node.name for node in model.graph.node if node.name.startswith(EMBEDDED_PREFIX)]
    found = search_half(
        model,
        log.inputs,
        keep=tuple(keep),
        uncounted=embedded,
        keep_io_types=keep_io_types,
        dtype=dtype,
        converter=converter,
        min_cosine=gate,
    )
    converted = found.half.model
    if dtype == "float16":
        OnnxRunner(converted)  # must load; its CPU kernels do not round, so it is measured below
    float32_nodes = tuple(entry for entry in found.half.float32_nodes if entry.node not in embedded)
    detail = f"{found.half.casts} Casts added, {len(float32_nodes)} float32 nodes{_searched(found.trials)}"
    if converter != "rtool":
        detail = f"by {converter}, {detail}"
    if found.half.flushed:
        detail += f", {found.half.flushed} weights underflow to 0 in {dtype} (the measured cosine includes it)"
    emulated = emulate_half(converted, float32_inputs=dtype == "bfloat16")
    log.check_model("fp16" if dtype == "float16" else "bf16", emulated, min_cosine=gate, detail=detail)
    return converted, float32_nodes


def convert_to_int8(
    model: onnx.ModelProto,
    log: StepLog,
    *,
    method: CalibrationMethod = "minmax",
    keep: Collection[str] = (),
    min_cosine: float | None = None,
) -> tuple[onnx.ModelProto, tuple[Float32Node, ...]]:
    """Quantise, calibrated on the images of `log`; nodes that fail the gate return to float32.

    Raises:
        GateError: the gate is missed, or an embedding depends on its neighbours in the batch.
        InputError: the model cannot be quantised.
    """
    gate = INT8_COSINE if min_cosine is None else min_cosine
    images = log.inputs[0]
    if images.dtype != np.float32:
        raise InputError(
            "int8: quantise without --embed-preprocessing; calibration needs the network's own inputs, not pixels"
        )
    found = search_int8(model, images, method=method, keep=tuple(keep), min_cosine=gate, reference=log.expected)
    small = f", {len(found.unprofitable)} too small to gain" if found.unprofitable else ""
    detail = f"{method}, {len(found.float32_nodes)} float32 nodes{small}{_searched(found.trials)}"
    detail += f"; {measure_int8_latency(model, found.model, log.inputs)}"
    log.check_model("int8", found.model, min_cosine=gate, detail=detail)
    types = {node.name: node.op_type for node in model.graph.node}
    reasons = dict.fromkeys(found.unprofitable, "int8 would make the file larger")
    reasons |= dict.fromkeys(found.float32_nodes, "fails the gate in int8")
    return found.model, tuple(Float32Node(name, types.get(name, ""), reason) for name, reason in reasons.items())


def check_int8(
    float32: onnx.ModelProto, int8: onnx.ModelProto, log: StepLog, *, min_cosine: float | None = None
) -> onnx.ModelProto:
    """Hold a quantised graph to the gate, with all its layers in int8, and return it.

    Raises:
        GateError: the gate is missed, or an embedding depends on its neighbours in the batch.
    """
    gate = INT8_COSINE if min_cosine is None else min_cosine
    detail = f"trained, no float32 nodes; {measure_int8_latency(float32, int8, log.inputs)}"
    log.check_model("int8", int8, min_cosine=gate, detail=detail)
    check_slots(int8, log.inputs[0])
    return int8


def _searched(trials: int) -> str:
    return f", found in {trials} trials" if trials > 1 else ""


def read_float32_nodes(path: Path) -> tuple[str, ...]:
    """Names of float32 nodes, from the manifest of an earlier export or a JSON list.

    Raises:
        InputError: the file is neither.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        entries = _listed(content) if isinstance(content, dict) else content
        names = [entry["node"] if isinstance(entry, dict) else entry for entry in entries]
        if not isinstance(entries, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its entries are not names")
        return tuple(names)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}); give an export's manifest or a JSON list") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected an export's manifest or a JSON list of node names ({error})") from error


def _listed(manifest: Mapping[str, Any]) -> Any:
    """The float32 nodes in a manifest; an earlier version of rtool used another key."""
    return manifest["float32_nodes"] if "float32_nodes" in manifest else manifest["kept_in_float32"]


def _at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    current: Sequence[int] = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if current[0] >= opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except RuntimeError as error:
        raise InputError(
            f"bf16: needs opset {opset}, and opset {current[0]} cannot be raised to it ({error}); use --fp16"
        ) from error
