"""`gallery:` of a YAML file: the settings under their names, with `~` and `${VAR}` in paths.

gallery: {model: "${MODELS}/osnet_x0_25.onnx", crops: "${DATA}/crops", output: runs/people, best_crops: 16}
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ...converters.runtime.probes.given_probes import Probe, read_probe
from ...errors import ConfigError, InputError, nearest
from ...finetune.config.values.paths import expanded
from ...finetune.config.values.yaml_text import ConfigLoader, load_yaml
from .settings import GallerySettings

__all__ = ["GalleryFile", "read_gallery_file"]

_PLACES = ("model", "crops", "output", "frames", "weights")
_PATHS = ("cache", "labels", "edits")


@dataclass(frozen=True)
class GalleryFile:
    """What a file states; an absent place is empty."""

    places: dict[str, str] = field(default_factory=dict)
    """model, crops, output, frames and weights, expanded."""
    fallback: tuple[str, ...] = ()
    flags: dict[str, bool] = field(default_factory=dict)
    """allow_random and overwrite."""
    probes: dict[str, Probe] = field(default_factory=dict)
    """Values of the model's inputs beside the image."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of `GallerySettings`."""


def read_gallery_file(path: Path) -> GalleryFile:
    """Read the section `gallery:`.

    Raises:
        InputError: the file cannot be read.
        ConfigError: it is no YAML, or a key or value is wrong.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), ConfigLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected YAML with a section gallery:") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is no YAML: {error}") from error
    section = content.get("gallery") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise ConfigError(f"{path}: expected a section gallery: with model, crops and output")
    names = {item.name for item in fields(GallerySettings)} - {"crops", "edits_source"} | {"best_crops"}
    known = {*_PLACES, "fallback", "probe", "allow_random", "overwrite", *names}
    places: dict[str, str] = {}
    flags: dict[str, bool] = {}
    settings: dict[str, Any] = {}
    probes: dict[str, Probe] = {}
    fallback: tuple[str, ...] = ()
    for key, value in section.items():
        if key not in known:
            raise ConfigError(f"{path}: gallery.{key}: unknown key; {nearest(str(key), known)}")
        where = f"{path}: gallery.{key}"
        if key in _PLACES:
            places[key] = _place(where, value)
        elif key == "fallback":
            fallback = tuple(_place(where, item) for item in (value if isinstance(value, list) else [value]))
        elif key == "probe":
            values = _of_kind(where, value, dict)
            probes = {
                str(name): read_probe(str(name), _place(f"{where}.{name}", said)) for name, said in values.items()
            }
        elif key in ("allow_random", "overwrite"):
            flags[key] = _of_kind(where, value, bool)
        elif key in _PATHS:
            settings[key] = Path(_place(where, value))
        elif key == "preprocessing":
            settings[key] = _of_kind(where, value, str)
        else:
            name = "crops" if key == "best_crops" else str(key)
            settings[name] = _setting(where, name, value)
    return GalleryFile(places, fallback, flags, probes, settings)


def _place(where: str, value: Any) -> str:
    try:
        return expanded(_of_kind(where, value, str))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _of_kind(where: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def _setting(where: str, name: str, value: Any) -> Any:
    """A number, flag or word, checked against the field's type."""
    kinds = typing.get_type_hints(GallerySettings)[name]
    words = _literals(kinds)
    plain = [kind for kind in (*typing.get_args(kinds), kinds) if kind in (int, float, bool)]
    if isinstance(value, bool):
        fits = bool in plain
    elif isinstance(value, int | float):
        fits = float in plain or (int in plain and isinstance(value, int))
        value = float(value) if float in plain else value
    else:
        fits = value in words
    if not fits:
        expected = [*(kind.__name__ for kind in plain), *map(str, words)]
        raise ConfigError(f"{where}: expected {' or '.join(dict.fromkeys(expected))}, got {value!r}")
    return value


def _literals(kind: Any) -> list[Any]:
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    return [word for part in typing.get_args(kind) for word in _literals(part)]
