"""`rtool export`: a deployable file from any model reference, every step measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .output import Output, examples, output_options

if TYPE_CHECKING:
    from ..converters.export_manifest import ExportResult

__all__ = ["export_command"]


@click.command(
    "export",
    epilog=examples(
        "rtool export runs/people/latest -o model.onnx --batch 16",
        "rtool export model.rtool --fp16 --batch dynamic",
        "rtool export model.onnx --embed-preprocessing -o model_uint8.onnx",
    ),
)
@click.argument("model")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="The file. [default: ./NAME.onnx]")
@click.option("--fp16", is_flag=True, help="Narrow weights and activations to float16.")
@click.option("--format", type=click.Choice(["onnx", "pt2", "torchscript"]), default="onnx", show_default=True)
@click.option("--batch", help="Batch the file takes: a number, or dynamic. [default: as the source]")
@click.option("--embed-preprocessing", is_flag=True, help="uint8 NHWC pixels in, L2-normalised embeddings out.")
@click.option(
    "--simplifier",
    type=click.Choice(["auto", "onnxslim", "onnxsim", "none"]),
    default="auto",
    show_default=True,
    help="auto: onnxslim, unless the graph is the source's own.",
)
@click.option("--keep-io-types/--half-io", default=True, help="With --fp16: float32 or float16 inputs and outputs.")
@click.option("--tolerance", default=1e-5, show_default=True, help="Largest relative error of a float32 step.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is already there.")
@output_options
def export_command(output: Output, model: str, target: Path | None, batch: str | None, **options: Any) -> None:
    """Write MODEL as one deployable file: BatchNorm folded, trained weights in the source graph."""
    from ..converters import export

    result = export(model, target, batch=_batch(batch), **options)
    output.emit(result, _rows(result), artefact=result.path, tables=() if output.as_json else (_steps(result),))


def _batch(text: str | None) -> Any:
    if text is None or text == "dynamic":
        return text
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--batch: expected a positive number or 'dynamic', got {text!r}")
    return int(text)


def _rows(result: ExportResult) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("model", result.model), ("size", f"{result.size_bytes / 1e6:.2f} MB")]
    if result.nodes is not None:
        rows.append(("graph", f"{result.nodes} nodes, opset {result.opset}, IR {result.ir_version}"))
    rows += [("kept BatchNorm", f"{entry['batchnorm']}: {entry['reason']}") for entry in result.kept_batchnorms[:5]]
    return [*rows, ("sha256", result.sha256)]


def _steps(result: ExportResult) -> Any:
    from rich.table import Table

    table = Table("step", "max rel error", "min cosine", "gate", "what", box=None, padding=(0, 2, 0, 0))
    for step in result.steps:
        table.add_row(step.name, f"{step.max_rel:.2e}", f"{step.min_cosine:.7f}", step.gate, step.detail)
    return table
