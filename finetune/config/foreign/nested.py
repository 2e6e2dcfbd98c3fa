"""Nested settings of yacs configurations as flat names: `MODEL.BACKBONE.DEPTH`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ....errors import ConfigError, InputError
from ..values.yaml_text import load_yaml

__all__ = ["flat_settings", "literal", "read_mapping"]

_DEEPEST = 20


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: the file is missing.
        ConfigError: it is not a YAML mapping.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections of settings, got {type(content).__name__}")
    return content


def flat_settings(content: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Settings by dotted name; texts that yacs reads as Python literals, such as "(30, 60)", are read so.

    Raises:
        ConfigError: sections are nested too deeply.
    """
    if depth > _DEEPEST:
        raise ConfigError(f"{prefix}: sections within sections, over {_DEEPEST} deep")
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            values.update(flat_settings(value, f"{prefix}{key}.", depth + 1))
        else:
            values[f"{prefix}{key}"] = literal(value)
    return values


def literal(value: Any) -> Any:
    """A text as the Python literal that it is, tuples as lists; any other value as it is."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    if isinstance(value, tuple | list):
        return [literal(item) for item in value]
    return value if isinstance(value, str | int | float | bool | dict | None) else str(value)
