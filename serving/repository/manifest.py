"""The manifest beside a published model: what it is, where it came from, and the command that publishes it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...converters.preprocessing.decision import PreprocessingDecision
from ...converters.records.json_text import parse_json
from .graph_signature import GraphSignature, GraphTensor

__all__ = ["EXPORTED_FROM", "make_manifest", "manifest_text", "packer_manifest"]

_FORMAT = 1
EXPORTED_FROM = "exported_from"
"""Key of a provenance: the bundle or run folder that the file was exported from to be published."""
_DEFAULT_REPOSITORY = Path("model_repository")
_STATED = ("preprocessing", "source", "source_sha256", "steps", "chain")
"""Keys `rtool.*` of a file's metadata that the manifest repeats."""


def make_manifest(
    name: str,
    version: int,
    signature: GraphSignature,
    *,
    published: GraphSignature,
    repository: Path,
    previous: int | None,
    provenance: Mapping[str, Any] | None,
    preprocessing: PreprocessingDecision | str,
    forced: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """The manifest of one version as JSON data.

    `signature` is of the file that was given, `published` of the one that is served, which may lack exporters' traces;
    `previous` is the version that was served before; `forced` what was lacking of its proof and `changes` what differs
    from the contract of `previous`, both published on request.
    """
    from ...version import __version__

    batch = signature.batch if signature.batch is not None else "dynamic"
    given = (provenance or {}).get(EXPORTED_FROM, signature.path)
    command = ["rtool", "deploy", str(given), "--name", name, "--batch", str(batch)]
    if repository != _DEFAULT_REPOSITORY:
        command += ["--repository", str(repository)]
    return {
        "format": _FORMAT,
        "name": name,
        "version": version,
        "previous_version": previous,
        "sha256": published.sha256,
        "bytes": published.path.stat().st_size,
        "given_sha256": signature.sha256,
        "opset": signature.opset,
        "ir_version": signature.ir_version,
        "batch": batch,
        "inputs": [_tensor(tensor) for tensor in signature.inputs],
        "outputs": [_tensor(tensor) for tensor in signature.outputs],
        "stated": _stated(signature.metadata),
        **_preprocessing(preprocessing),
        "command": shlex.join(command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rtool": __version__,
        "provenance": dict(provenance or {}),
        **({"forced": list(forced)} if forced else {}),
        **({"new_contract": list(changes)} if changes else {}),
    }


def packer_manifest(
    name: str, version: int, *, target: str, batch: int, previous: int | None, digests: Mapping[str, str]
) -> dict[str, Any]:
    """The manifest of a packer version: its target, the target's fixed batch, and the SHA-256 of each of its files."""
    from ...version import __version__

    return {
        "format": _FORMAT,
        "name": name,
        "version": version,
        "previous_version": previous,
        "target": target,
        "target_batch": batch,
        "sha256": dict(digests),
        "command": shlex.join(["rtool", "deploy", "--packer-for", target, "--name", name]),
        "rtool": __version__,
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest as indented JSON text."""
    return json.dumps(manifest, indent=2) + "\n"


def _stated(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the export wrote into the file's metadata: preprocessing, origin and steps."""
    found: dict[str, Any] = {}
    for name in _STATED:
        text = metadata.get(f"rtool.{name}")
        if text:
            try:
                found[name] = parse_json(text)
            except ValueError:
                found[name] = text  # a plain string
    return found


def _preprocessing(found: PreprocessingDecision | str) -> dict[str, Any]:
    """The preprocessing and where it comes from, or why it is not known."""
    if isinstance(found, str):
        return {"preprocessing": None, "preprocessing_origin": found}
    return {"preprocessing": found.preprocessing.to_dict(), "preprocessing_origin": found.reason}


def _tensor(tensor: GraphTensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": tensor.data_type, "shape": list(tensor.shape)}
