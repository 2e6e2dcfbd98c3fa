"""YAML of configurations: with bounds, and with numbers that mean what they look like.

The safe loaders of PyYAML make no objects, and follow aliases and nesting without a limit: aliases may repeat a part of
a file, but not unfold a few lines into a billion values. Here the size of the document with all aliases written out is
worked out on its nodes, before anything is constructed.

YAML 1.1 reads `010` as eight, `1:30` as ninety, and `1e-4`, `.5e3` and `-.5` as texts. `ConfigLoader` refuses the first
two, which mean ten and a text in YAML 1.2 and elsewhere, and reads the others as numbers.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["ConfigLoader", "load_yaml"]

_MOST_VALUES = 100_000
_LONGEST = 1 << 22


_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_MERGE = "tag:yaml.org,2002:merge"
"""`<<`, whose keys may be overridden beside it."""


class ConfigLoader(yaml.SafeLoader):
    """The loader of configurations; it also refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the base class, which would silently use the last of two equal keys."""
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen and key.tag != _MERGE:
                raise yaml.constructor.ConstructorError(problem=f"key '{key.value}' twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_plain_number(self, node: yaml.ScalarNode) -> int | float:
        """A number; octal and sexagesimal ones are refused with the value that YAML 1.1 gives them."""
        whole = node.tag.endswith(":int")
        value: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        text = node.value
        if ":" in text:
            meaning, instead = f"the number {value:g} in base 60", f"{value:g} for that number"
        elif whole and _OCTAL.fullmatch(text):
            sign, digits = text[0] if text[0] in "-+" else "", text.lstrip("-+0").replace("_", "")
            meaning, instead = f"the octal number {value}", f"{sign}{digits or 0} for a decimal number"
        else:
            return value
        problem = f"'{text}' is {meaning} in YAML; write {instead}, or '{text}' in quotes for a text"
        raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


ConfigLoader.yaml_implicit_resolvers = {
    key: list(resolvers) for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)
for _kind in ("int", "float"):
    ConfigLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", ConfigLoader.construct_plain_number)


def load_yaml(text: str, loader_class: type[yaml.SafeLoader]) -> Any:
    """The one document in `text`.

    Raises:
        yaml.YAMLError: it is not YAML, or expands beyond all bounds.
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
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's constructors raise them for a date such as 2024-99-99, or a tag that its value does not fit.
        raise yaml.YAMLError(f"a value is not what its form or tag says: {error}") from error
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
