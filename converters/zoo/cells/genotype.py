"""`Genotype`: the wiring of a found cell, and its file genotype.json.

The file is JSON and is checked key by key; nothing in it is evaluated. Schema 1:

    schema 1, operations [...], cells, nodes, channels, stem, normal [["sep3", 0], ["part", 1], ...], reduce [...],
    concat [2, 3, ...], and what a search states of how it found them: inputs_per_node, epoch, method, order, seed,
    entropy, skips, parameters, macs, source.

Each node has its edges in turn: an operation, and the state that it reads; 0 and 1 are the inputs of the cell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....errors import InputError, nearest
from ...files.atomic_file import write_atomically
from ...records.json_text import parse_json
from .space import SearchSpace

__all__ = ["SCHEMA", "Edge", "Genotype", "genotype_of_json", "read_genotype", "write_genotype"]

SCHEMA = 1

Edge = tuple[str, int]
"""An operation, and the state that it reads."""

Nodes = tuple[tuple[Edge, ...], ...]
"""The edges of each node of a cell, in ascending order of the state they read."""

_REQUIRED = ("schema", "operations", "cells", "nodes", "channels", "stem", "normal", "reduce", "concat")
_FACTS: Mapping[str, tuple[type, ...]] = {
    "epoch": (int,),
    "method": (str,),
    "order": (int,),
    "seed": (int,),
    "entropy": (int, float),
    "parameters": (int,),
    "macs": (int,),
    "source": (str,),
}
"""What a search states beside the cells -> the types it may have."""
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Genotype:
    """The cells of one network of a search space.

    Raises:
        InputError: edges that the space does not have.
    """

    space: SearchSpace
    normal: Nodes
    reduce: Nodes
    facts: Mapping[str, Any] = field(default_factory=dict)
    """epoch, method, order, seed, entropy, parameters, macs, source: those that are known."""

    def __post_init__(self) -> None:
        for name, nodes in (("normal", self.normal), ("reduce", self.reduce)):
            _check_nodes(name, nodes, self.space)

    @property
    def skips(self) -> dict[str, int]:
        """Skip connections in a cell of each kind."""
        return {name: self.count("skip", name) for name in ("normal", "reduce")}

    def count(self, operation: str, cell: str | None = None) -> int:
        """Edges that carry an operation, in the cells `normal` or `reduce`, or in both."""
        kinds = {"normal": self.normal, "reduce": self.reduce}
        chosen = kinds.values() if cell is None else (kinds[cell],)
        return sum(edge[0] == operation for nodes in chosen for edges in nodes for edge in edges)

    def to_json(self) -> dict[str, Any]:
        """The content of genotype.json."""
        space = self.space
        return {
            "schema": SCHEMA,
            "operations": list(space.operations),
            "cells": space.cells,
            "nodes": space.nodes,
            "channels": space.channels,
            "stem": space.stem,
            "inputs_per_node": space.inputs_per_node,
            "normal": [list(edge) for edges in self.normal for edge in edges],
            "reduce": [list(edge) for edges in self.reduce for edge in edges],
            "concat": list(range(2, space.nodes + 2)),
            "skips": self.skips,
            **self.facts,
        }


def read_genotype(path: str | Path) -> Genotype:
    """The genotype in a file.

    Raises:
        InputError: there is no such file, or it is not a genotype of schema 1; with the key at fault.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{path}: no such genotype; a search writes RUN/search/genotype.json")
    if file.stat().st_size > _MOST_BYTES:
        raise InputError(f"{path}: larger than 1 MiB, so not a genotype; give the genotype.json of a search")
    try:
        content = parse_json(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a genotype: {error}; give the genotype.json of a search") from error
    return genotype_of_json(content, str(path))


def write_genotype(genotype: Genotype, path: Path) -> None:
    """Write a genotype as a file, in full or not at all.

    Raises:
        InputError: it cannot be written there.
    """
    lines = [f'  "{key}": {json.dumps(value)}' for key, value in genotype.to_json().items()]
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def genotype_of_json(content: object, label: str) -> Genotype:
    """The genotype that parsed JSON states; `label` begins the message of an error.

    Raises:
        InputError: it is not a genotype of schema 1; with the key at fault.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{label}: expected a genotype, an object with keys, got {type(content).__name__}")
    if "schema" in content and not _is_integer(content["schema"], SCHEMA, SCHEMA):
        raise InputError(f"{label}: genotype of schema {content['schema']!r:.60}; this rtool reads schema {SCHEMA}")
    for key in _REQUIRED:
        if key not in content:
            raise InputError(f"{label}: a genotype needs {key!r}, which is missing")
    known = (*_REQUIRED, *_FACTS, "skips", "inputs_per_node")
    for key in content:
        if key not in known:
            raise InputError(f"{label}: unknown key {key!r:.60} in a genotype; {nearest(str(key)[:60], known)}")
    space = _space(content, label)
    facts = {key: content[key] for key in _FACTS if key in content}
    for key, value in facts.items():
        if not isinstance(value, _FACTS[key]) or isinstance(value, bool):
            wanted = "text" if _FACTS[key] == (str,) else "a number"
            raise InputError(f"{label}: {key}: expected {wanted}, got {value!r:.60}")
    if content["concat"] != list(range(2, space.nodes + 2)):
        raise InputError(
            f"{label}: concat: expected {list(range(2, space.nodes + 2))}, all nodes, got {content['concat']!r:.60}"
        )
    cells = {name: _nodes(content[name], space, f"{label}: {name}") for name in ("normal", "reduce")}
    try:
        genotype = Genotype(space, cells["normal"], cells["reduce"], facts)
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    if content.get("skips", genotype.skips) != genotype.skips:
        raise InputError(f"{label}: skips: says {content['skips']!r:.60}, and its cells have {genotype.skips}")
    return genotype


def edges_of_node(space: SearchSpace, node: int) -> int:
    """How many edges node `node` of a found cell has."""
    return min(space.inputs_per_node, 2 + node)


def _space(content: Mapping[str, Any], label: str) -> SearchSpace:
    operations = content["operations"]
    if not isinstance(operations, list) or not all(isinstance(each, str) for each in operations):
        raise InputError(f"{label}: operations: expected a list of names, got {operations!r:.60}")
    try:
        return SearchSpace(
            operations=tuple(operations),
            cells=content["cells"],
            nodes=content["nodes"],
            channels=content["channels"],
            stem=content["stem"] if isinstance(content["stem"], str) else repr(content["stem"])[:60],
            inputs_per_node=content.get("inputs_per_node", 2),
        )
    except InputError as error:
        raise InputError(f"{label}: {error}") from error


def _nodes(entries: object, space: SearchSpace, label: str) -> Nodes:
    """The edges of each node of a flat list of [operation, state]."""
    counts = [edges_of_node(space, node) for node in range(space.nodes)]
    if not isinstance(entries, list) or len(entries) != sum(counts):
        found = f"{len(entries)} edges" if isinstance(entries, list) else repr(entries)[:60]
        raise InputError(f"{label}: expected {sum(counts)} edges [operation, state], got {found}")
    edges: list[Edge] = []
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise InputError(f'{label}: an edge is ["sep3", 0], an operation and a state; got {entry!r:.60}')
        if not _is_integer(entry[1], 0, space.nodes + 1):
            raise InputError(f"{label}: an edge reads a state from 0 to {space.nodes + 1}, got {entry[1]!r:.60}")
        edges.append((entry[0], entry[1]))
    nodes, start = [], 0
    for count in counts:
        nodes.append(tuple(edges[start : start + count]))
        start += count
    return tuple(nodes)


def _check_nodes(name: str, nodes: Sequence[Sequence[Edge]], space: SearchSpace) -> None:
    if len(nodes) != space.nodes:
        raise InputError(f"{name}: expected {space.nodes} nodes, got {len(nodes)}")
    allowed = [operation for operation in space.operations if operation != "none"]
    for node, edges in enumerate(nodes):
        states = [state for _, state in edges]
        if len(edges) != edges_of_node(space, node) or states != sorted(set(states)) or max(states) >= node + 2:
            raise InputError(
                f"{name}: node {node} takes {edges_of_node(space, node)} edges from different states 0 to {node + 1}, "
                f"in ascending order, got {states}"
            )
        for operation, _ in edges:
            if operation not in allowed:
                raise InputError(f"{name}: an edge carries {operation!r:.60}; {nearest(operation[:60], allowed)}")


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
