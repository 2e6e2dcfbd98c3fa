"""The configuration as text for people: a commented YAML of every field, made from the models' docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .config import FinetuneConfig, LossConfig, Section
from .distillation import DistilConfig, DistilTerm, TeacherConfig
from .search import SearchConfig

__all__ = ["commented_config", "config_template", "distil_reference", "loss_reference", "search_reference"]

_TEMPLATE: dict[str, Any] = {
    "model": {"reference": "model.onnx"},
    "data": {"train": "path/to/images"},
    "losses": [{"kind": "arcface"}],
}


def commented_config(config: FinetuneConfig | None = None) -> str:
    """Every field with its value and, above it, its meaning, as YAML; without `config`, defaults and examples."""
    values = config or config_template()
    return "\n".join(_section_lines(values, "")) + "\n"


def config_template() -> FinetuneConfig:
    """A configuration of defaults, with examples for fields that have none."""
    return FinetuneConfig.model_validate(_TEMPLATE)


def loss_reference() -> str:
    """All kinds of loss with their fields and defaults, as YAML."""
    return "\n\n".join(_block(model) for model in get_args(get_args(LossConfig)[0])) + "\n"


def distil_reference() -> str:
    """The section distil with all its fields, those of a teacher and all kinds of terms, as YAML."""
    lines = [f"# {_summary(DistilConfig)}", "distil:"]
    for name, field in DistilConfig.model_fields.items():
        lines += [f"  # {line}" for line in _meaning(field)]
        if name not in ("teachers", "terms"):
            lines.append(f"  {name}: {_value(field.default)}")
            continue
        items = (TeacherConfig,) if name == "teachers" else get_args(get_args(DistilTerm)[0])
        lines.append(f"  {name}:")
        lines += [f"    {line}" for model in items for line in _block(model).splitlines()]
    return "\n".join(lines) + "\n"


def search_reference() -> str:
    """The section search with all its fields and defaults, as YAML."""
    lines = [f"# {_summary(SearchConfig)}", "search:", *_section_lines(SearchConfig(), "  ")]
    return "\n".join(lines) + "\n"


def _block(model: type[BaseModel]) -> str:
    """The fields of a section as an item of a list."""
    lines = [f"# {_summary(model)}"]
    for number, (name, field) in enumerate(model.model_fields.items()):
        default = get_args(field.annotation)[0] if name == "kind" else field.default
        note = f"  # {' '.join(_meaning(field))}" if field.description else ""
        lines.append(f"{'  ' if number else '- '}{name}: {_value(default)}{note}")
    return "\n".join(lines)


def _section_lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.description:
            yield from (f"{indent}# {line}" for line in _meaning(field))
        if isinstance(value, Section):
            yield f"{indent}{name}:"
            yield from _section_lines(value, indent + "  ")
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            yield f"{indent}{name}:"
            for item in value:
                yield from _item_lines(item, indent + "  ")
        else:
            yield f"{indent}{name}: {_value(section.model_dump(mode='json')[name])}"


def _item_lines(item: BaseModel, indent: str) -> Iterator[str]:
    """A loss or a teacher as a list item: its kind or reference first, then its fields with their meaning."""
    fields = item.model_dump(mode="json")
    first = next(iter(fields))
    yield f"{indent}- {first}: {_value(fields.pop(first))}  # {_summary(type(item))}"
    for name, value in fields.items():
        yield f"{indent}  {name}: {_value(value)}  # {' '.join(_meaning(type(item).model_fields[name]))}"


def _meaning(field: FieldInfo) -> list[str]:
    """The meaning of a field, in lines, and the values it accepts where there are only some."""
    words = _words(field.annotation)
    lines = (field.description or "").splitlines()
    return lines if len(words) < 2 else [*lines, f"One of {', '.join(words)}."]


def _words(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    return [word for argument in get_args(annotation) for word in _words(argument)]


def _summary(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").splitlines()[0]


def _value(value: Any) -> str:
    if value is PydanticUndefined:
        return "..."
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return text.removesuffix("\n...").strip()
