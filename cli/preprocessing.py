"""The option `--preprocessing`, the same in every command, and how the decision is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..converters.records.preprocessing import Preprocessing

__all__ = ["preprocessing_option", "shown_preprocessing"]

preprocessing_option = click.option(
    "--preprocessing",
    default="auto",
    metavar="SPEC",
    help="imagenet, arcface, arcface-bgr, raw, clip, a JSON file, or mean=127.5,std=128 with order=bgr, size=HxW or "
    "interpolation=bicubic (pixels 0..255). [default: stated in the model, else found in its graph, else usual for it]",
)


def shown_preprocessing(preprocessing: Preprocessing | None, reason: str | None) -> str:
    """Size, channels, mean, deviation and where they come from; or why it is unknown."""
    return f"unknown: {reason}" if preprocessing is None else f"{preprocessing} ({reason})"
