"""Read a configuration file and `key=value` overrides; report all faults in one message, with the nearest names.

Files are YAML. An override names a field by its path (`optimizer.lr=1e-4`, `losses.0.margin=soft`, `losses+=...`); its
value is read as YAML, then checked against the field's type like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ...errors import ConfigError, InputError, nearest
from .config import FinetuneConfig
from .foreign.recognition import mistaken_for_ours
from .sources import without_tag
from .values.overrides import apply_override
from .values.yaml_text import ConfigLoader, load_yaml

__all__ = ["dump_config", "load_config", "parse_config", "read_config"]


def load_config(config: str | Path | FinetuneConfig, overrides: Sequence[str] = ()) -> FinetuneConfig:
    """The configuration in a file, or `config` itself, with overrides applied and checked.

    Args:
        config: A YAML file, or a configuration.
        overrides: `key.path=value`, each value written as YAML; later ones replace earlier ones.

    Raises:
        InputError: the file is missing.
        ConfigError: the file is not YAML, keys are unknown or values wrong; all of them in one message.

    Examples:
        >>> str(rtool.config.init("finetune.yaml").path)
        'finetune.yaml'
        >>> rtool.finetune.load_config("finetune.yaml", ["optimizer.lr=1e-4"]).optimizer.lr
        0.0001
    """
    source = "config" if isinstance(config, FinetuneConfig) else str(config)
    return parse_config(read_config(config), source, overrides)


def read_config(config: str | Path | FinetuneConfig) -> dict[str, Any]:
    """The raw values of a file or a configuration, not checked.

    Raises:
        InputError: the file is missing.
        ConfigError: the file is not YAML.
    """
    if isinstance(config, FinetuneConfig):
        return config.model_dump(mode="json")
    return _read_yaml(Path(config))


def parse_config(data: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> FinetuneConfig:
    """The configuration of raw values, which `overrides` change first; `source` begins the message on faults.

    Raises:
        ConfigError: keys are unknown or values wrong; all of them in one message.
    """
    for override in overrides:
        apply_override(data, override)
    try:
        return FinetuneConfig.model_validate(data)
    except ValidationError as error:
        lines = [_explain(problem) for problem in _without_echoes(error.errors())]
        message = lines[0] if len(lines) == 1 else "\n".join(["", *(f"  {line}" for line in lines)])
        raise ConfigError(f"{source}: {message}") from error


def dump_config(config: FinetuneConfig) -> str:
    """The resolved configuration as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _refuse_foreign(path: Path, content: object) -> None:
    trainer = mistaken_for_ours(path, content)
    if trainer is not None:
        raise ConfigError(
            f"{path}: is a configuration of {trainer}, not of rtool; rtool config convert {path} -o cfg.yaml"
        )


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file")
    try:
        data = load_yaml(path.read_text(encoding="utf-8"), ConfigLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        _refuse_foreign(path, None)
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    _refuse_foreign(path, data)
    if not isinstance(data, dict):
        found = "an empty file" if data is None else type(data).__name__
        raise ConfigError(f"{path}: expected keys and values, got {found}")
    return data


def _without_echoes(problems: Iterable[Any]) -> Iterator[Any]:
    """Leave out "too short" for a list whose items are wrong: pydantic counts only the items that are right."""
    known = list(problems)
    for problem in known:
        place = problem["loc"]
        inside = any(other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in known)
        if not (problem["type"] == "too_short" and inside):
            yield problem


def _explain(problem: Any) -> str:
    location = without_tag(problem["loc"])
    name = ".".join(str(part) for part in location)
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key '{name}'; {nearest(str(location[-1]), _fields_at(location[:-1]))}"
        case "missing":
            return f"'{name}' is missing"
        case "union_tag_not_found":
            return f"'{name}': each loss needs a kind, such as kind: arcface"
        case "union_tag_invalid" if problem["ctx"]["tag"] == "list":  # of sources, see `EvaluationSources`
            return f"'{name}': takes one source, or a mapping of names to sources for several, got {problem['input']!r}"
        case "path_type":
            return f"'{name}': expected a path, got {problem['input']!r}"
        case "union_tag_invalid":
            kinds = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
            return f"'{name}': unknown kind '{problem['ctx']['tag']}'; {nearest(problem['ctx']['tag'], kinds)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"'{name}': expected a section of keys and values, got {problem['input']!r}"
        case "value_error":
            error = str(problem["ctx"]["error"])
            return f"'{name}': {error}" if name else error
        case "lookalike":
            return f"'{name}': {problem['msg']}"
    if isinstance(problem["input"], dict) and _is_number_table(location):
        return f"'{name}': expected a number, got {problem['input']!r}; quote a pattern with dots: {_quoted(location)}"
    return f"'{name}': {problem['msg'].lower()}, got {problem['input']!r}"


def _is_number_table(location: Sequence[str | int]) -> bool:
    """Whether a place is below a table from patterns to numbers, whose patterns may have dots."""
    return tuple(location[:2]) in (("model", "freeze"), ("optimizer", "lr_multipliers"))


def _quoted(location: Sequence[str | int]) -> str:
    return f'{location[0]}.{location[1]}."{location[2]}.*"=0.1'


def _fields_at(location: Sequence[str | int]) -> list[str]:
    """Field names of the section at a place such as ("losses", 0, "triplet")."""
    found: list[type[BaseModel]] = [FinetuneConfig]
    for part in location:
        if isinstance(part, int):
            continue
        fields = [owner.model_fields[part] for owner in found if part in owner.model_fields]
        deeper = [model for field in fields for model in _models(field.annotation)]
        found = deeper or [model for model in found if _kind_of(model) == part]
    return [field for model in found for field in model.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _kind_of(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field is not None else None
