"""The record that an open batch was proved: in an exported ONNX file and in a bundle; read and written without torch.

A proof holds for the bytes it was made for. In an ONNX file it is the last metadata entry, `rtool.batch_proof`, and
states the SHA-256 of all bytes before it; in a bundle `bundle.json` states it with the digests of the graph and of the
weights. A file that was changed since, by any program, has no proof.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .json_text import parse_json

__all__ = [
    "BATCH_KEY",
    "BatchProof",
    "bundle_entry",
    "describe_batch",
    "proof_of_bundle",
    "proof_of_file",
    "with_proof",
]

BATCH_KEY = "rtool.batch_proof"
"""Model metadata: JSON of the sizes, the largest relative error and the SHA-256 of the bytes before the entry."""
_BUNDLE_FILES = ("graph.onnx", "weights.safetensors")
_TAIL = 4096
"""Bytes; the entry is shorter."""
_METADATA, _KEY, _VALUE = 0x72, 0x0A, 0x12
"""Protobuf tags: ModelProto.metadata_props, and key and value of its entries."""


@dataclass(frozen=True)
class BatchProof:
    """A batch was compared with its images one by one and was equal, at each of `sizes` images."""

    sizes: tuple[int, ...]
    max_rel: float
    """The largest difference, relative to the largest output: kernels may sum in another order for another batch."""

    @classmethod
    def of(cls, stated: Any) -> Self | None:
        """What `to_json` gave; None for anything else."""
        if not isinstance(stated, Mapping):
            return None
        sizes, error = stated.get("sizes"), stated.get("max_rel")
        if not isinstance(sizes, list) or not sizes or not isinstance(error, int | float):
            return None
        if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
            return None
        return cls(tuple(sizes), float(error))

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"sizes": list(self.sizes), "max_rel": self.max_rel}


def describe_batch(declared: int | str | None, proof: BatchProof | None = None) -> str:
    """One line for people; `declared` is the number that a model states, anything else stands for an open batch.

    >>> describe_batch(4), describe_batch("dynamic"), describe_batch("N", BatchProof((1, 2, 3), 0.0))
    ('fixed: 4', 'dynamic, not verified', 'dynamic, verified at 1, 2 and 3')
    """
    if isinstance(declared, int):
        return f"fixed: {declared}"
    if proof is None:
        return "dynamic, not verified"
    *first, last = map(str, proof.sizes)
    return f"dynamic, verified at {', '.join(first)} and {last}" if first else f"dynamic, verified at {last}"


def with_proof(model: bytes, proof: BatchProof) -> bytes:
    """The bytes of an ONNX model with the proof behind them; protobuf takes fields in any order."""
    stated = {**proof.to_json(), "sha256": hashlib.sha256(model).hexdigest()}
    return model + _entry(json.dumps(stated).encode())


def proof_of_file(model: bytes | memoryview) -> BatchProof | None:
    """The proof that the bytes of an ONNX model state; None where there is none, or it is for other bytes."""
    tail = bytes(model[-_TAIL:])
    found = tail.rfind(BATCH_KEY.encode())
    if found < 0:
        return None
    value, length = _length(tail, found + len(BATCH_KEY) + 1)
    entry = _entry(tail[value : value + length])
    if not tail.endswith(entry):
        return None
    try:
        stated = parse_json(tail[value : value + length].decode())
    except ValueError:
        return None
    proof = BatchProof.of(stated)
    if proof is None or stated.get("sha256") != hashlib.sha256(memoryview(model)[: -len(entry)]).hexdigest():
        return None
    return proof


def bundle_entry(folder: Path, proof: BatchProof) -> dict[str, Any]:
    """The proof as `bundle.json` states it, for the graph and weights that lie in `folder`."""
    return {**proof.to_json(), "sha256": _bundle_digests(folder)}


def proof_of_bundle(folder: Path, info: Mapping[str, Any]) -> BatchProof | None:
    """The proof that a bundle's `info` states; None where there is none, or it is for another graph or weights."""
    stated = info.get("batch_proof")
    proof = BatchProof.of(stated)
    if proof is None or stated is None or stated.get("sha256") != _bundle_digests(folder):
        return None
    return proof


def _bundle_digests(folder: Path) -> dict[str, str]:
    digests = {}
    for name in _BUNDLE_FILES:
        try:
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            digests[name] = ""
    return digests


def _entry(value: bytes) -> bytes:
    """A metadata entry of the key, as protobuf."""
    key = BATCH_KEY.encode()
    inner = bytes([_KEY, len(key)]) + key + bytes([_VALUE]) + _varint(len(value)) + value
    return bytes([_METADATA]) + _varint(len(inner)) + inner


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A varint at `at`: where it ends, and its value."""
    number, shift = 0, 0
    for place, byte in enumerate(data[at : at + 10], at):
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return place + 1, number
    return len(data), 0
