"""Where a model comes from, as a chain: source, converted, restored, trained, exported; each link with its facts.

A bundle keeps the chain in `bundle.json`, an exported ONNX file in its own metadata (key `rtool.chain`) and in its
manifest; each command takes over the chain it finds and adds its link. Plain data, no paths of the machine.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...version import __version__
from .json_text import parse_json

__all__ = ["CHAIN_KEY", "ChainLink", "chain_of_bundle", "chain_of_metadata", "to_json", "tool_versions"]

CHAIN_KEY = "rtool.chain"
"""Model metadata: JSON of the list of links."""


@dataclass(frozen=True)
class ChainLink:
    """One thing that was done: a word for it, a line for people, and facts for programs (JSON data)."""

    step: str
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def chain_of_bundle(info: Mapping[str, Any]) -> tuple[ChainLink, ...]:
    """The chain in a bundle's `bundle.json`; of a bundle without one, what its other entries tell."""
    provenance = info.get("provenance")
    chain = _links(provenance.get("chain") if isinstance(provenance, Mapping) else None)
    if chain:
        return chain
    source, architecture = info.get("source"), info.get("architecture")
    if isinstance(source, Mapping):
        return (ChainLink("source", str(source.get("name")), dict(source)),)
    if isinstance(architecture, Mapping):
        return (ChainLink("source", f"architecture {architecture.get('name')}, fresh weights", dict(architecture)),)
    return ()


def chain_of_metadata(metadata: Mapping[str, str]) -> tuple[ChainLink, ...]:
    """The chain in an ONNX file's own metadata; empty where it says nothing that can be read."""
    try:
        return _links(parse_json(metadata.get(CHAIN_KEY, "[]")))
    except ValueError:
        return ()


def to_json(chain: Iterable[ChainLink]) -> list[dict[str, Any]]:
    """The chain as JSON data."""
    return [asdict(link) for link in chain]


def tool_versions() -> dict[str, str]:
    """Versions of what a conversion depends on."""
    found = {"rtool": __version__}
    for package in ("torch", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxslim", "onnxsim"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # one of the two runtimes
    return found


def _links(data: Any) -> tuple[ChainLink, ...]:
    if not isinstance(data, list):
        return ()
    return tuple(
        ChainLink(str(entry.get("step")), str(entry.get("detail", "")), _facts(entry.get("facts")))
        for entry in data
        if isinstance(entry, Mapping)
    )


def _facts(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}
