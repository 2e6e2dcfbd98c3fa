"""Options of `export` that exclude each other, or that nothing would heed: refused before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ...errors import InputError, nearest

__all__ = ["Format", "Precision", "check_options", "chosen_precision"]

Format = Literal["onnx", "torchscript", "pt2"]
Precision = Literal["fp16", "bf16", "int8"]

_DEFAULTS = {"keep-float32": (), "calibration": "minmax", "simplifier": "auto"}
"""What an option is when nobody gave it, where that is neither None nor False."""
_HEEDED_WITH: dict[str, tuple[Precision, ...]] = {
    "min-cosine": ("fp16", "bf16", "int8"),
    "keep-float32": ("fp16", "bf16", "int8"),
    "half-io": ("fp16", "bf16"),
    "calibration": ("int8",),
}
"""Options of the step that narrows the numbers, and the precisions whose step reads them."""


def chosen_precision(wanted: Mapping[Precision, bool]) -> Precision | None:
    """The one precision that is wanted; None for float32.

    Raises:
        InputError: several are.
    """
    chosen: list[Precision] = [name for name in get_args(Precision) if wanted[name]]
    if len(chosen) > 1:
        raise InputError(f"export: --{chosen[0]} and --{chosen[1]} exclude each other; choose one")
    return chosen[0] if chosen else None


def check_options(format: str, precision: Precision | None, options: Mapping[str, Any], *, calibrated: bool) -> None:
    """Refuse what does not go together.

    Args:
        format: of the file to write.
        precision: what the numbers are narrowed to.
        options: values by the command line's names, without the dashes.
        calibrated: whether images were given.

    Raises:
        InputError: naming the option, and what it goes with.
    """
    if format not in get_args(Format):
        raise InputError(f"export: unknown format {format!r}; {nearest(format, get_args(Format))}")
    given = [
        name
        for name, value in options.items()
        if value is not None and value is not False and value != _DEFAULTS.get(name)
    ]
    onnx_only = [precision, *given] if precision is not None else given
    if format != "onnx" and onnx_only:
        raise InputError(f"export: --{onnx_only[0]} rewrites ONNX graphs; it does not go with --format {format}")
    for name in given:
        heeded = _HEEDED_WITH.get(name)
        if heeded is not None and precision not in heeded:
            ways = " or ".join(f"--{entry}" for entry in heeded)
            raise InputError(f"export: --{name} says how to narrow the numbers; give it with {ways}, or leave it out")
    if precision == "int8" and not calibrated:
        raise InputError("export: int8 is calibrated on real images; give inputs, or --calibrate DATA")
    if precision == "int8" and "embed-preprocessing" in given:
        raise InputError(
            "export: --int8 is calibrated on what the network takes, not on pixels; leave out --embed-preprocessing"
        )
