"""`rtool export`: a deployable file from any model reference, every step measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .convert import read_batch, weight_rows
from .output import Output, examples, output_options
from .preprocessing import preprocessing_option, shown_preprocessing
from .probes import probe_option, read_probes

if TYPE_CHECKING:
    from ..converters.exporting.manifest import ExportResult
    from ..converters.records.preprocessing import Preprocessing

__all__ = ["export_command", "export_rows", "step_table"]

_LISTED = 3
"""Kept BatchNorms that are named; the others are counted."""


@click.command(
    "export",
    epilog=examples(
        "rtool export runs/people/20260101-120000 -o model.onnx --batch 16",
        "rtool export model.rtool --fp16 --batch dynamic",
        "rtool export model.onnx --embed-preprocessing --target triton:24.10 -o model_uint8.onnx",
        "rtool export model.rtool --int8 --calibrate crops/",
        "rtool export runs/faces/20260101-120000 -o images.onnx --matcher matcher.onnx",
    ),
)
@click.argument("model")
@click.option(
    "-o",
    "--output",
    "target_file",
    type=click.Path(path_type=Path),
    help="The file. [default: ./NAME.onnx, a run's by the run's name]",
)
@click.option(
    "--matcher",
    "matcher_file",
    type=click.Path(path_type=Path),
    help="Of a run with qaconv: write its matcher here, and outputs embedding, map and visibility into the other file.",
)
@click.option("--fp16", is_flag=True, help="Convert weights and activations to float16.")
@click.option("--bf16", is_flag=True, help="Convert them to bfloat16 (opset 22).")
@click.option("--int8", is_flag=True, help="Quantise weights and activations; needs --calibrate.")
@click.option("--fp32", is_flag=True, help="Stay in float32 where the model came in float16 or bfloat16.")
@click.option("--calibrate", help="Images to calibrate and measure on: a folder or a generator like synthetic-people.")
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="How many of them to use.",
)
@click.option(
    "--calibration",
    type=click.Choice(["minmax", "entropy", "percentile"]),
    default="minmax",
    show_default=True,
    help="With --int8: how ranges come from the calibration images.",
)
@click.option(
    "--format",
    type=click.Choice(["onnx", "pt2", "torchscript"]),
    default="onnx",
    show_default=True,
    help="pt2: torch.export; torchscript is legacy.",
)
@click.option("--batch", help="Batch the file supports: a number, or dynamic. [default: as the source]")
@click.option("--fold-padded", is_flag=True, help="Fold BatchNorm before zero padding too (iResNet); re-exports.")
@click.option("--embed-preprocessing", is_flag=True, help="uint8 NHWC pixels in, L2-normalised embeddings out.")
@click.option(
    "--simplifier",
    type=click.Choice(["auto", "onnxslim", "onnxsim", "none"]),
    default="auto",
    show_default=True,
    help="auto: onnxslim, unless the graph is the source's own.",
)
@click.option(
    "--fp16-converter",
    type=click.Choice(["rtool", "onnxconverter-common"]),
    default="rtool",
    show_default=True,
    help="Who converts to float16; both pass the same gate.",
)
@click.option("--keep-io-types/--half-io", default=True, help="With --fp16: float32 or float16 inputs and outputs.")
@click.option(
    "--keep-float32",
    "keep_file",
    type=click.Path(path_type=Path),
    help="Nodes that stay in float32: an earlier export's manifest, or a JSON list of names.",
)
@preprocessing_option
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Load this state_dict (.pth) over the model's weights first."
)
@click.option("--target", help="What must read the file: triton:24.10, triton:25.09, onnxruntime:1.19, tensorrt, ...")
@probe_option
@click.option("--strip-metadata", is_flag=True, help="Remove exporters' stack traces and file paths.")
@click.option(
    "--min-cosine", type=float, help="Gate of a reduced precision. [default: fp16 0.9999, bf16 0.999, int8 0.99]"
)
@click.option("--tolerance", default=1e-5, show_default=True, help="Largest relative error of a float32 step.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is already there.")
@output_options
def export_command(
    output: Output,
    model: str,
    target_file: Path | None,
    matcher_file: Path | None,
    batch: str | None,
    calibrate: str | None,
    calibration_images: int,
    keep_file: Path | None,
    preprocessing: str | None,
    probe: tuple[str, ...],
    **options: Any,
) -> None:
    """Write MODEL as one deployable file: BatchNorm folded, trained weights in the source graph."""
    from ..converters import export
    from ..converters.exporting.reduced_precision import read_float32_nodes

    if matcher_file is not None and target_file is None:
        raise click.UsageError("--matcher: name the other file too, with -o FILE")
    chosen: dict[str, Any] = {
        "batch": read_batch(batch),
        "preprocessing": preprocessing,
        "inputs": _reader(calibrate, calibration_images) if calibrate else None,
        "probes": read_probes(probe),
        "keep_float32": read_float32_nodes(keep_file) if keep_file else (),
        **options,
    }
    if matcher_file is None or target_file is None:
        result = export(model, target_file, **chosen)
        made: Any = result
        rows = export_rows(result)
    else:
        from ..finetune.matching.exporting import export_matching

        made = export_matching(model, target_file, matcher_file, **chosen)
        result = made.images
        rows = [
            *export_rows(result),
            ("matcher", f"{made.matcher.path}, {made.parity.max_rel:.1e} from torch at most"),
        ]
    output.emit(made, rows, artefact=result.path, tables=() if output.as_json else (step_table(result),))


def _reader(spec: str, limit: int) -> Callable[[Preprocessing], Any]:
    """Reads uint8 pixels [N, H, W, C] of images spread over the data set, sized for the model, when that is open."""

    def read(preprocessing: Preprocessing) -> Any:
        import numpy as np

        from ..finetune.data.decoding import read_pixels
        from ..finetune.data.formats.sources import open_dataset

        dataset = open_dataset(spec)
        rows = np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).astype(np.int64)
        return read_pixels(dataset.subset(rows), preprocessing.resize).values

    return read


def export_rows(result: ExportResult) -> list[tuple[str, Any]]:
    """An export as rows of a table."""
    from ..converters.records.batch_proof import describe_batch

    rows: list[tuple[str, Any]] = [("model", result.model), ("size", f"{result.size_bytes / 1e6:.2f} MB")]
    rows += weight_rows(result.weights) if result.weights is not None else []
    if result.nodes is not None:
        rows.append(("graph", f"{result.nodes} nodes, opset {result.opset}, IR {result.ir_version}"))
    if result.upcast is not None:
        rows.append(("precision", result.upcast))
    if "open_sizes" in result.measured_on:
        rows.append(("open sizes", f"measured at {result.measured_on['open_sizes']}"))
    if result.batch_proof is not None:
        rows.append(("batch", describe_batch("dynamic", result.batch_proof)))
    if result.batch_note:
        rows.append(("note", result.batch_note))
    kept = result.kept_batchnorms
    rows += [("kept BatchNorm", f"{entry['batchnorm']}: {entry['reason']}") for entry in kept[:_LISTED]]
    if len(kept) > _LISTED:
        rows.append(("kept BatchNorm", f"and {len(kept) - _LISTED} more, see the manifest"))
    rows.append(("preprocessing", _preprocessing(result)))
    return [*rows, ("sha256", result.sha256)]


def _preprocessing(result: ExportResult) -> str:
    from ..converters.records.preprocessing import Preprocessing

    made = None if result.preprocessing is None else Preprocessing.from_dict(result.preprocessing)
    embedded = made is None and result.preprocessing_origin.startswith("in the graph")
    return result.preprocessing_origin if embedded else shown_preprocessing(made, result.preprocessing_origin)


def step_table(result: ExportResult) -> Any:
    """The steps of an export, each with its errors and gate."""
    from rich.table import Table

    table = Table("step", "max rel error", "min cosine", "gate", "what", box=None, padding=(0, 2, 0, 0))
    for step in result.steps:
        table.add_row(step.name, f"{step.max_rel:.2e}", f"{step.min_cosine:.7f}", step.gate, step.detail)
    return table
