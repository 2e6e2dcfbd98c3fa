"""Several data sets in one field of the configuration: one source, a list of them, or a mapping from names to them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Tag

from .section import Place

__all__ = ["MEAN", "EvaluationSources", "TrainingSources", "as_list", "named_sources", "without_tag"]

MEAN = "mean"
"""What stands in place of a set's name before the mean of a metric over all sets."""

_NAME = re.compile(r"\w[\w-]*")

Sources = str | tuple[str, ...] | dict[str, str]


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "named"
    return "list" if isinstance(value, list | tuple) else "one"


def _checked(value: Sources) -> Sources:
    """Refuse an empty collection, a source that is given twice, and names that would make metrics ambiguous."""
    places = [value] if isinstance(value, str) else list(value.values() if isinstance(value, dict) else value)
    if not places:
        raise ValueError("names no data set; give one source, several, or leave the field out")
    known = [os.path.normpath(place) for place in places]
    twice = next((place for number, place in enumerate(places) if known[number] in known[:number]), None)
    if twice is not None:
        raise ValueError(f"'{twice}' is given twice; each data set counts once")
    for name in value if isinstance(value, dict) else ():
        if name == MEAN or not _NAME.fullmatch(name):
            raise ValueError(
                f"'{name}' cannot name a set; use letters, digits, _ and -, and not '{MEAN}', which stands for all sets"
            )
    return value


_One = Annotated[Place, Tag("one")]
_Named = Annotated[dict[str, Place], Tag("named")]

TrainingSources = Annotated[
    Annotated[_One | Annotated[tuple[Place, ...], Tag("list")] | _Named, Discriminator(_kind)], AfterValidator(_checked)
]
EvaluationSources = Annotated[Annotated[_One | _Named, Discriminator(_kind)], AfterValidator(_checked)]
"""One set, or sets by the names that their metrics have."""


def without_tag(place: tuple[Any, ...]) -> tuple[Any, ...]:
    """The place of a problem as the file has it: pydantic puts the form of the sources (one, list, named) after it."""
    return (
        place[:2] + place[3:]
        if place[:2] in (("data", "train"), ("data", "evaluate"), ("distil", "unlabelled"))
        else place
    )


def named_sources(sources: Sources) -> dict[str, str]:
    """Sources by name; those without one are named by their own text, and a single one by ""."""
    if isinstance(sources, str):
        return {"": sources}
    return dict(sources) if isinstance(sources, dict) else {place: place for place in sources}


def as_list(sources: Sources | None) -> list[str]:
    """The sources alone."""
    return [] if sources is None else list(named_sources(sources).values())
