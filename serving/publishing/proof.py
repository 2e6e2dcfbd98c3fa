"""Whether a file's export was measured: its manifest names the file by SHA-256, and every gate in it was met.

`rtool export` writes FILE.manifest.json beside a file, and only when each step passed. A file without one, or another
file than the one it names (weights swapped, a node edited), has no measured number behind it. `--force` publishes it
nevertheless, and the version's own manifest records what was lacking.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ...converters.records.json_text import parse_json
from ...errors import InputError
from ..repository.graph_signature import GraphSignature

__all__ = ["check_proof", "export_command", "lacking_proof"]

_GATE = re.compile(r"(max relative error <=|min cosine >=) ([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)( in float64)?")
"""As `exporting/step_log.py` words it; what was measured in float64 is not in the recorded numbers."""


def check_proof(signature: GraphSignature, committed: Mapping[str, Any] | None, *, force: bool) -> tuple[str, ...]:
    """What is lacking of the proof, for the manifest of the version; empty for a file whose export passed its gates.

    Args:
        signature: of the file.
        committed: the manifest of a placeholder, which names the file that fills it.
        force: publish it nevertheless.

    Raises:
        InputError: something is lacking, and `force` is not given.
    """
    lacking = lacking_proof(signature, committed)
    if lacking is None:
        return ()
    if not force:
        raise InputError(
            f"{signature.path}: {lacking}; export it with `{export_command(signature)}`, which measures it, and deploy "
            "that, or publish it unmeasured with --force, which is recorded"
        )
    return (lacking,)


def export_command(signature: GraphSignature, batch: int | str | None = None) -> str:
    """The command that makes such a file, with `batch`; a torch file, and one of reduced precision, from its origin."""
    steps, origin = signature.metadata.get("rtool.steps", ""), signature.metadata.get("rtool.model", "MODEL")
    precision = next((name for name in ("fp16", "bf16", "int8") if f'"name": "{name}"' in steps), None)
    if signature.backend == "pytorch":
        return f"rtool export {origin} --format torchscript -o OUT.pt"
    command = f"rtool export {signature.path if precision is None else origin}"
    if precision is not None:
        command += f" --{precision}{' --calibrate IMAGES' if precision == 'int8' else ''}"
    return f"{command}{f' --batch {batch}' if batch is not None else ''} -o OUT.onnx"


def lacking_proof(signature: GraphSignature, committed: Mapping[str, Any] | None = None) -> str | None:
    """What is lacking, in words; None where the file's export passed its gates."""
    named = committed is not None and committed.get("sha256") == signature.sha256
    if committed is not None and named and _unmet(committed.get("stated"), "the committed manifest") is None:
        return None
    path = signature.path.with_name(f"{signature.path.name}.manifest.json")
    if not path.is_file():
        return f"no manifest of an export lies beside it ({path.name}), so nothing was measured"
    try:
        manifest = parse_json(path.read_text())
    except (ValueError, OSError) as error:
        return f"{path.name} cannot be read ({error})"
    if not isinstance(manifest, dict):
        return f"{path.name} is not the manifest of an export"
    stated = manifest.get("sha256")
    if stated != signature.sha256:
        return (
            f"it is not the file that {path.name} names: sha256 {signature.sha256[:16]}..., in the manifest "
            f"{str(stated)[:16]}..."
        )
    return _unmet(manifest, path.name)


def _unmet(manifest: Any, place: str) -> str | None:
    """The first step whose recorded numbers miss its recorded gate."""
    steps = manifest.get("steps") if isinstance(manifest, dict) else None
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        return f"{place} has no measured steps"
    for step in steps:
        numbers = [step.get(key) for key in ("max_abs", "max_rel", "min_cosine")]
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
            return f"{place}: step {step.get('name')!r} has no finite numbers ({numbers})"
        if missed := _missed(step, numbers[1], numbers[2]):
            return f"{place}: step {step.get('name')!r} missed its gate: {missed}"
    if not any(step.get("gate") for step in steps):
        return f"{place}: none of its steps had a gate"
    return None


def _missed(step: Mapping[str, Any], max_rel: float, min_cosine: float) -> str:
    gate = step.get("gate") or ""
    for part in str(gate).split(", ") if gate else ():
        bound = _GATE.fullmatch(part)
        if bound is None:
            return f"{part[:60]!r} is no gate that rtool export measures"
        what, number, exactly = bound.groups()
        value, held = (
            (max_rel, max_rel <= float(number)) if what[:3] == "max" else (min_cosine, min_cosine >= float(number))
        )
        if not held and not exactly:
            return f"{what[:-3]} {value:g}, must be {what[-2:]} {number}"
    return ""
