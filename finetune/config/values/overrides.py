"""Overrides on the command line: `key.path=value` sets a field, `key.path+=value` appends to a list.

A path names sections by name and list items by number (`losses.0.margin`). A key with dots, as patterns of parameter
names have, is quoted: `optimizer.lr_multipliers."layer4.*"=0.1`. Values are YAML.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from ....errors import ConfigError
from .yaml_text import ConfigLoader, load_yaml

__all__ = ["apply_override"]

_KEY = r"""(?:"[^"]*"|'[^']*'|[^.='"+\s]+)"""
_OVERRIDE = re.compile(rf"\s*({_KEY}(?:\.{_KEY})*)\s*(\+?=)(.*)", re.DOTALL)
_KEYS = re.compile(_KEY)


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set or append one value in the raw data of a configuration. Validation refuses keys that do not exist.

    Raises:
        ConfigError: it is not an override, its value is not YAML, or its path leads through a value.
    """
    found = _OVERRIDE.fullmatch(override)
    if found is None:
        raise ConfigError(
            f"override '{override}': expected key=value, such as optimizer.lr=1e-4, or key+=value to append to a list; "
            "quote keys with dots or other signs: 'model.freeze.\"layer4.*\"=null'"
        )
    path, operation, text = found.groups()
    try:
        value = load_yaml(text, ConfigLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{override}': the value is not YAML: {error}") from error
    *parents, last = [key.strip("\"'") for key in _KEYS.findall(path)]
    place: Any = data
    for key in parents:
        place = _child(place, key, override)
    if operation == "+=":
        _append(place, last, value, override)
    elif isinstance(place, list):
        place[_position(place, last, override)] = value
    else:
        place[last] = value


def _append(place: Any, key: str, value: Any, override: str) -> None:
    """Add `value` to the list under `key`, item by item if it is a list itself; a missing list is made."""
    if isinstance(place, dict):
        before = place.get(key)
    else:
        before = place[_position(place, key, override)]
    if before is None:
        before = []
    if not isinstance(before, list):
        kind = "a section" if isinstance(before, dict) else f"a value ({before!r})"
        raise ConfigError(f"override '{override}': += appends to a list, and {key} is {kind}; use = to set it")
    added = [*before, *value] if isinstance(value, list) else [*before, value]
    place[key if isinstance(place, dict) else _position(place, key, override)] = added


def _child(place: Any, key: str, override: str) -> Any:
    """The section or list under a key; an empty section is made."""
    if isinstance(place, list):
        child = place[_position(place, key, override)]
    else:
        if place.get(key) is None:
            place[key] = {}
        child = place[key]
    if not isinstance(child, dict | list):
        raise ConfigError(f"override '{override}': {key} is a value ({child!r}), not a section")
    return child


def _position(place: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(place):
        numbers = f"a number from 0 to {len(place) - 1}" if place else "no item, for the list is empty"
        raise ConfigError(f"override '{override}': expected {numbers}, got '{key}'; append with +=")
    return int(key)
