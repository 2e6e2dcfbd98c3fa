"""What the commands that train share: `--nproc`, the table of a plan and that of a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import click

from ..errors import InputError
from .output import Output

if TYPE_CHECKING:
    from ..finetune.finetuning import FinetuneResult
    from ..finetune.training.planning import RunPlan

__all__ = ["emit_result", "parse_processes", "plan_rows"]

_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""


def parse_processes(text: str) -> int | Literal["auto"]:
    """The value of `--nproc`.

    Raises:
        InputError: neither a number from 1 nor auto.
    """
    if text == "auto":
        return "auto"
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--nproc {text}: expected a whole number from 1, or auto")
    return int(text)


def emit_result(output: Output, result: FinetuneResult) -> None:
    """Print the result of a run; after Ctrl-C the command ends with its exit code."""
    from ..finetune.runs.gain import Gain

    rows = [
        ("epochs", f"{result.epochs} ({result.steps} steps, {result.skipped_steps} skipped)"),
        *((name, f"{value:.4f}") for name, value in result.metrics.items() if isinstance(value, float)),
        ("images/s", f"{result.images_per_second:.0f}"),
    ]
    if result.found is not None:
        rows.append(("found", found_row(result.found)))
    if result.gain is not None:
        rows.append(("source -> best", str(Gain(**result.gain))))
    if not result.finished:
        rows.append(("stopped", f"by {result.stopped_by}, and saved; continue with --resume auto"))
    output.emit(result, rows, artefact=result.run_dir)
    if result.stopped_by == "SIGINT":
        click.get_current_context().exit(_INTERRUPTED)


def found_row(found: Mapping[str, Any]) -> str:
    """What a search found, in one line."""
    size = f"{found['parameters']:,} parameters, {found['macs']:,} multiplications"
    decided = {True: "; alpha decided", False: "; alpha decided nothing", None: ""}[found["decided"]]
    return f"{found['genotype']}: {size}, by {found['source']} of {max(1, found['cells'])}{decided}"


def plan_rows(plan: RunPlan) -> list[tuple[str, str]]:
    """What `--dry-run` prints."""
    return [
        ("model", f"{plan.model}, {plan.parameters:,} parameters, heads {plan.head_parameters:,}"),
        *([("weights", str(plan.weights))] if plan.weights is not None else []),
        ("input", "x".join(map(str, plan.input)) + f" -> {plan.embedding}"),
        ("preprocessing", plan.preprocessing),
        ("train", f"{plan.train_images} images of {plan.train_identities} identities"),
        ("held out", f"{plan.held_out_images} images of {plan.held_out_identities} identities"),
        (
            "evaluation",
            f"{plan.protocol}; {plan.metric} chooses the best checkpoint"
            if plan.metric
            else "none: evaluation is null",
        ),
        ("steps", f"{plan.epochs} epochs of {plan.steps_per_epoch}, {plan.processes} x {plan.batch} images each"),
        ("device", f"{plan.device}, about {plan.memory / 1e6:.0f} MB per process"),
        *(("teacher", str(facts)) for facts in plan.teachers),
        *(("note", note) for note in plan.notes),
        ("output", str(plan.output)),
    ]
