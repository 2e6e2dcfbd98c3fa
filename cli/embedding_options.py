"""Options of the commands that embed images: which batch, output, size, weights, device and cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from ..errors import InputError

__all__ = [
    "batch_option",
    "cache_option",
    "device_option",
    "embedding_option",
    "read_size",
    "schedule_for",
    "size_option",
    "weights_option",
]

F = TypeVar("F", bound=Callable[..., Any])


class _Batch(click.ParamType[Any]):
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


def batch_option(default: str) -> Callable[[F], F]:
    """The option `--batch`, with this default."""
    return click.option(
        "--batch",
        default=default,
        show_default=True,
        type=_Batch(),
        help="Images per call of the model; auto: 64, and on a GPU doubled from there while that pays.",
    )


cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep embeddings in DIR, by model and content of the image, and compute none twice.",
)

embedding_option = click.option(
    "--embedding",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Number of the output that is the embedding, from 0.",
)

weights_option = click.option(
    "--weights", type=click.Path(path_type=Path), help="Load this state_dict (.pth) over the model's weights first."
)

device_option = click.option("--device", default="cpu", show_default=True, help="cpu or cuda:N.")

size_option = click.option("--size", metavar="HxW", help="Input size in pixels, for models that do not state it.")


def schedule_for(*references: str | None) -> None:
    """Schedule this command as batch work where one of the models is served, perhaps by a server on the same cores."""
    from ..finetune.processes.batch_scheduling import schedule_as_batch

    if any(reference is not None and reference.startswith("triton://") for reference in references):
        schedule_as_batch()


def read_size(text: str | None) -> tuple[int, int] | None:
    """Height and width of what `--size` was given.

    Raises:
        InputError: it is not HEIGHTxWIDTH.
    """
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise InputError(f"--size {text}: expected HEIGHTxWIDTH, such as 256x128")
    return int(height), int(width)
