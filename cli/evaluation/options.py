"""The options of `rtool evaluate` that say how a gallery is ranked, and the data sets by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ...errors import InputError

__all__ = ["named_sets", "ranking_options"]

F = TypeVar("F", bound=Callable[..., Any])

_NAMED = re.compile(r"(\w[\w-]*)=(.+)", re.DOTALL)


def ranking_options(command: F) -> F:
    """Add the fields of `Ranking`, passed to the command as arguments of their names."""
    for option in reversed(
        (
            click.option("--rerank", is_flag=True, help="Re-rank by k-reciprocal encoding (arXiv:1701.08398)."),
            click.option(
                "--k1",
                default=20,
                show_default=True,
                type=click.IntRange(1),
                help="Neighbours re-ranking looks at.",
            ),
            click.option(
                "--k2",
                default=6,
                show_default=True,
                type=click.IntRange(1),
                help="Neighbours re-ranking averages.",
            ),
            click.option(
                "--lambda",
                "share",
                default=0.3,
                show_default=True,
                type=click.FloatRange(0, 1),
                help="Share of the original distance in that of re-ranking.",
            ),
            click.option(
                "--expand",
                default=0,
                type=click.IntRange(0),
                metavar="K",
                help="Query expansion: average each embedding with its K nearest, itself included.",
            ),
            click.option(
                "--expand-alpha",
                "expand_power",
                default=3.0,
                show_default=True,
                type=click.FloatRange(0),
                help="Power of the cosine that weighs each of them (arXiv:1711.02512).",
            ),
            click.option("--multi-query", is_flag=True, help="Average the images of a query's person and camera."),
            click.option(
                "--distance",
                type=click.Choice(["cosine", "euclidean"]),
                default="cosine",
                show_default=True,
                help="What retrieval ranks by; euclidean takes embeddings as they are.",
            ),
        )
    ):
        command = option(command)
    return command


def named_sets(arguments: tuple[str, ...]) -> dict[str, str]:
    """DATA or NAME=DATA as data sets by name; a single one without a name is named "".

    Raises:
        InputError: two sets have one name.
    """
    sets: dict[str, str] = {}
    for text in arguments:
        named = _NAMED.fullmatch(text)
        if named is not None and not Path(text).exists():
            name, source = named[1], named[2]
        else:
            name, source = ("" if len(arguments) == 1 else _name_of(text)), text
        if name in sets or name == "mean":
            raise InputError(f"{text}: another set is named '{name}' too; name each: NAME={source}")
        sets[name] = source
    return sets


def _name_of(source: str) -> str:
    """The file's or folder's name, or that of a generator."""
    path = source.partition(":root=")[0].rstrip("/")
    return Path(path).stem if Path(path).exists() else source.partition(":")[0]
