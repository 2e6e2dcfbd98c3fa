"""The options `--batch` and `--cache` of the commands that embed images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

__all__ = ["batch_option", "cache_option"]


class _Batch(click.ParamType):
    name = "N|auto"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["auto"]:
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"expected a number from 1, or auto, got {value!r}", param, ctx)
        return number


batch_option = click.option(
    "--batch",
    default="64",
    show_default=True,
    type=_Batch(),
    help="Images per call of the model; auto: on a GPU doubled from 64 while that pays.",
)

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep embeddings in DIR, by model and content of the image, and compute none twice.",
)
