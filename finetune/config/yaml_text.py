"""YAML with bounds: aliases may repeat a part of a file, but not expand a few lines into a billion values.

The safe loaders of PyYAML make no objects, and follow aliases and nesting without a limit. Here the size of the
document with all aliases written out is worked out on its nodes, before anything is constructed.
"""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["load_yaml"]

_MOST_VALUES = 100_000
_LONGEST = 1 << 22


def load_yaml(text: str, loader_class: type[yaml.SafeLoader]) -> Any:
    """The one document in `text`.

    Raises:
        yaml.YAMLError: it is no YAML, or expands beyond all bounds.
    """
    if len(text) > _LONGEST:
        raise yaml.YAMLError(f"{len(text)} characters, at most {_LONGEST} are read")
    loader = loader_class(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}, set()) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases expand to more than {_MOST_VALUES} values")
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Values below a node, every alias counted as often as it stands there."""
    if id(node) in above:
        raise yaml.YAMLError("a part of it contains itself")
    if id(node) not in known:
        above.add(id(node))
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = list(node.value)
        elif isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known, above) for part in inner)
        above.discard(id(node))
    return known[id(node)]
