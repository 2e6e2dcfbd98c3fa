"""Name the settings of a configuration that its run would not depend on.

A setting counts as stated where it differs from its default, or where it is written in a section that does not write
all its fields, as the page of `rtool config init` and the file of a run do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..config import FinetuneConfig
from ..distillation import DistilConfig
from ..section import Section
from .conditions import RunFacts
from .table import IDLE

__all__ = ["settings_without_effect"]


def settings_without_effect(config: FinetuneConfig, facts: RunFacts | None = None) -> list[str]:
    """One line for each stated setting that has no effect, with the reason.

    Args:
        config: The run.
        facts: What data and network make of it; without them the conditions that need them are not checked.
    """
    lines = []
    for place, path, section, name in _stated(config):
        check = IDLE.get(path)
        reason = check(section, config, facts) if check is not None else None
        if reason is not None:
            lines.append(f"{place} {_shown(getattr(section, name))} has no effect: {reason}")
    return lines


def _stated(config: FinetuneConfig) -> Iterator[tuple[str, str, Section, str]]:
    """Place, path in the tables, section and name of each stated field that is not a section."""
    for name in FinetuneConfig.model_fields:
        value = getattr(config, name)
        if name == "losses":
            for number, loss in enumerate(value):
                yield from _stated_in(loss, f"losses.{number}.", f"losses.{loss.kind}.")
        elif isinstance(value, DistilConfig):
            yield from _stated_of_teachers(value)
        elif isinstance(value, Section):
            yield from _stated_in(value, f"{name}.", f"{name}.")
        elif _is_stated(config, name):
            yield name, name, config, name


def _stated_of_teachers(distil: DistilConfig) -> Iterator[tuple[str, str, Section, str]]:
    yield from _stated_in(distil, "distil.", "distil.")
    for number, teacher in enumerate(distil.teachers):
        yield from _stated_in(teacher, f"distil.teachers.{number}.", "distil.teachers.")
    for number, term in enumerate(distil.terms):
        yield from _stated_in(term, f"distil.terms.{number}.", f"distil.terms.{term.kind}.")


def _stated_in(section: Section, place: str, path: str) -> Iterator[tuple[str, str, Section, str]]:
    for name in type(section).model_fields:
        inner = getattr(section, name)
        if isinstance(inner, Section):
            yield from _stated_in(inner, f"{place}{name}.", f"{path}{name}.")
        elif _is_stated(section, name):
            yield place + name, path + name, section, name


def _is_stated(section: Section, name: str) -> bool:
    fields, written = type(section).model_fields, section.model_fields_set
    differs = getattr(section, name) != fields[name].get_default(call_default_factory=True)
    return differs or (name in written and len(written) < len(fields))


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Section):
        return json.dumps(value.model_dump(mode="json", exclude_defaults=True))
    return str(list(value)) if isinstance(value, tuple) else str(value)
