"""How every command prints: a table, or with `--json` one object, on stdout, logs on stderr, the artefact's path last.

Results are dataclasses; `to_plain` converts them to JSON data. rich is imported only when a table is printed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["Output", "examples", "output_options", "to_plain"]

F = TypeVar("F", bound=Callable[..., Any])

_PIPED_WIDTH = 160
"""Width in columns of a table that is written to a file or a pipe."""


def to_plain(value: Any) -> Any:
    """Dataclasses, paths, NumPy scalars and containers as JSON data; non-finite numbers become strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


@dataclass(frozen=True)
class Output:
    """The output mode of a command, chosen with `--json` and `--quiet`."""

    as_json: bool
    quiet: bool

    def emit(
        self,
        result: Any,
        rows: Sequence[tuple[str, Any]] = (),
        *,
        artefact: Path | None = None,
        tables: Sequence[Any] = (),
        brief: str = "",
    ) -> None:
        """Print one result: `rows` as a two-column table, then rich `tables`, then the artefact's path alone.

        `brief` is the line that `--quiet` prints for a result that is not a file.
        """
        if self.as_json:
            click.echo(json.dumps(to_plain(result), indent=2))
            return
        if not self.quiet:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text

            console = Console(highlight=False)
            if not console.is_terminal:
                console.width = _PIPED_WIDTH
            if rows:
                summary = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
                summary.add_column(no_wrap=True)
                summary.add_column(overflow="fold")
                for name, value in rows:
                    summary.add_row(Text(name), Text(str(value)))  # as it is: brackets are not markup
                tables = (summary, *tables)
            for table in tables:
                with console.capture() as printed:
                    console.print(table)
                for line in printed.get().splitlines():
                    click.echo(line if console.is_terminal else line.rstrip())
        elif brief:
            click.echo(brief)
        if artefact is not None:
            click.echo(os.fspath(artefact))


def output_options(command: F) -> F:
    """Add `--json` and `--quiet`, passed to the command as one `output: Output` argument."""

    def collect(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
        settings = ctx.ensure_object(dict)
        settings[param.name] = value
        ctx.params["output"] = Output(bool(settings.get("as_json")), bool(settings.get("quiet")))
        return value

    command = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=collect,
        help="Print one line only: the path of the artefact, or the main result.",
    )(command)
    return click.option(
        "--json", "as_json", is_flag=True, expose_value=False, callback=collect, help="Print one JSON object."
    )(command)


def examples(*lines: str) -> str:
    """The epilog of a command's help: two or three command lines to copy."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
