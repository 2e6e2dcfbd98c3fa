"""Provenance of a model as a chain of links: source, converted, restored, trained, exported; each with its facts.

A bundle stores the chain in `bundle.json`, an exported ONNX file in its metadata (key `rtool.chain`) and in its
manifest; each command copies the chain it finds and appends its own link. The chain is plain data without local paths.
"""

from __future__ import annotations

import functools
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
    """One processing step: its name, one line for people, and facts for programs (JSON data)."""

    step: str
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def chain_of_bundle(info: Mapping[str, Any]) -> tuple[ChainLink, ...]:
    """The chain in a bundle's `bundle.json`; for a bundle without one, the link that its other entries imply."""
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
    """The chain in an ONNX file's metadata; empty where there is no readable entry."""
    try:
        return _links(parse_json(metadata.get(CHAIN_KEY, "[]")))
    except ValueError:
        return ()


def to_json(chain: Iterable[ChainLink]) -> list[dict[str, Any]]:
    """The chain as JSON data."""
    return [asdict(link) for link in chain]


def tool_versions() -> dict[str, str]:
    """Package -> version, for the packages a conversion depends on; those not installed are left out."""
    return dict(_tool_versions())


@functools.cache
def _tool_versions() -> Mapping[str, str]:
    found = {"rtool": __version__}
    for package in ("torch", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxslim", "onnxsim"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # only one of the two ONNX Runtime packages is installed
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
