"""`rtool onnx2torch` and `rtool ops`: a trainable bundle from an ONNX file, and the operators that convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .output import Output, examples, output_options
from .preprocessing import preprocessing_option, shown_preprocessing
from .probes import probe_option, read_probes

if TYPE_CHECKING:
    from ..converters.batchnorm.restore import RestoreReport
    from ..converters.bundles.onnx_to_bundle import OnnxToTorchResult
    from ..converters.weights.weight_match import WeightMatch

__all__ = ["onnx2torch_command", "ops_command", "read_batch", "weight_rows", "weight_tables"]


@click.command(
    "onnx2torch",
    epilog=examples(
        "rtool onnx2torch model.onnx",
        "rtool onnx2torch model.onnx -o model.rtool --restore-bn --calibrate crops/",
        "rtool onnx2torch face.onnx --preprocessing arcface --freeze 'conv1.*'",
        "rtool onnx2torch batch16.onnx --batch dynamic",
    ),
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="The bundle. [default: ./NAME.rtool]")
@click.option("--restore-bn", is_flag=True, help="Put BatchNorm back behind fused layers; needs --calibrate.")
@click.option("--calibrate", help="Images to measure activations on, best old ones: a folder or a generator.")
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="How many of them to use.",
)
@preprocessing_option
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Load this state_dict (.safetensors, .pth, .pt or .ckpt, or FILE:KEY), fused or the original's.",
)
@click.option("--allow-partial", is_flag=True, help="Accept --weights that do not fill the model.")
@click.option("--freeze", multiple=True, help="Parameters that do not train, e.g. 'conv1.*'; repeatable.")
@click.option("--learned", multiple=True, help="Single numbers of the file that train, e.g. '*.alpha'; repeatable.")
@probe_option
@click.option("--batch", help="Rewrite a fixed batch first: dynamic, or a number. [default: as the file]")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-5,
    show_default=True,
    help="Largest relative error against the file.",
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is already there.")
@output_options
def onnx2torch_command(
    output: Output,
    model: Path,
    target: Path | None,
    restore_bn: bool,
    calibrate: str | None,
    calibration_images: int,
    preprocessing: str | None,
    weights: Path | None,
    allow_partial: bool,
    freeze: tuple[str, ...],
    learned: tuple[str, ...],
    batch: str | None,
    tolerance: float,
    probe: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Convert the ONNX file MODEL into a trainable bundle, and check that it gives the same numbers.

    The same command, given again, continues an interrupted calibration.
    """
    from ..converters import onnx2torch
    from ..finetune.runs.calibration_images import CalibrationImages
    from ..finetune.runs.progress_display import ProgressDisplay

    if calibrate and not restore_bn:
        raise InputError(f"--calibrate {calibrate}: is for restoring BatchNorm; add --restore-bn, or leave it out")
    target = target or Path(f"{model.stem}.rtool")
    state = target.parent / f"{target.name}.calibration"
    with ProgressDisplay(quiet=output.quiet or output.as_json) as display:
        images = CalibrationImages(calibrate or "", calibration_images, display)
        try:
            result = onnx2torch(
                model,
                target,
                restore_bn=restore_bn,
                calibrate=images.batches if calibrate else None,
                calibration_state=state,
                progress=images.show,
                weights=weights,
                allow_partial=allow_partial,
                freeze=freeze,
                learned=learned,
                preprocessing=preprocessing,
                batch=read_batch(batch),
                tolerance=tolerance,
                probes=read_probes(probe),
                overwrite=overwrite,
            )
        except KeyboardInterrupt:
            if state.exists():
                display.line(f"stopped; the same command continues from {state}")
            raise
    if result.restored is not None and result.restored.warning:
        click.echo(f"warning: {result.restored.warning}", err=True)
    output.emit(result, _conversion_rows(result), artefact=result.output, tables=weight_tables(result.weights))


@click.command("ops", epilog=examples("rtool ops", "rtool ops Resize", "rtool ops --ulp", "rtool ops --json"))
@click.argument("operator", required=False)
@click.option("--ulp", is_flag=True, help="Measure rounding errors against float64 instead; about 20 seconds.")
@output_options
def ops_command(output: Output, operator: str | None, ulp: bool) -> None:
    """List the ONNX operators that can be converted, or one OPERATOR."""
    from rich.table import Table

    if ulp:
        _emit_rounding(output, operator)
        return

    from ..converters import ops

    result = ops(operator)
    table = Table("operator", "domain", "opsets", "trainable", box=None)
    for row in result.operators:
        table.add_row(row.operator, row.domain, row.opsets, "yes" if row.trainable else "")
    output.emit(result, tables=[table])


def _emit_rounding(output: Output, operator: str | None) -> None:
    """Measured errors beside WebNN's budgets, then why an operator is over its budget."""
    from rich.table import Table

    from ..benchmarks import rounding_errors

    result = rounding_errors(operator)
    table = Table("operator", "examples", "error, ULP", "absolute", "WebNN's budget", "within", box=None)
    for row in result.operators:
        budget = "-" if row.budget_ulp is None else f"{row.budget_ulp:g} ULP"
        if row.budget_absolute is not None:
            budget = f"{row.budget_absolute:.2g} absolute"
        within = "" if row.within is None else "yes" if row.within else "no"
        table.add_row(row.operator, str(row.examples), f"{row.ulp:.3g}", f"{row.absolute:.2g}", budget, within)
    rows = [("within budget", f"{result.within} of {result.budgeted}")]
    rows += [(row.operator, row.reason) for row in result.operators if row.within is False]
    output.emit(result, rows, tables=[table])


def read_batch(text: str | None) -> Any:
    """What `--batch` says: a number, "dynamic", or None where it was not given."""
    if text is None or text == "dynamic":
        return text
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--batch: expected a positive number or 'dynamic', got {text!r}")
    return int(text)


def _conversion_rows(result: OnnxToTorchResult) -> list[tuple[str, Any]]:
    from ..converters.records.batch_proof import describe_batch

    rows: list[tuple[str, Any]] = [
        ("source", result.source),
        ("parameters", f"{result.parameters:,} ({result.trainable:,} trainable)"),
    ]
    changed = result.weights is not None and result.weights.changed
    label, against = ("difference", "from the source file") if changed else ("parity", "")
    rows += [
        (
            f"{label}, batch {entry.batch}",
            f"max relative error {entry.parity.max_rel:.2g} " + (against if changed else f"against {entry.oracle}"),
        )
        for entry in result.parity
    ]
    judged = [entry for entry in result.parity if entry.reason]
    rows += [(f"judged, batch {entry.batch}", entry.reason) for entry in judged[:1]]
    if any(entry.oracle == "onnx.reference" for entry in result.parity):
        rows.append(("oracle", "ONNX Runtime refuses this valid file; it was compared with onnx.reference"))
    if result.upcast_from is not None:
        rows.append(
            (
                "precision",
                f"stored as {result.upcast_from}; trained as float32, and exports go back to {result.upcast_from}",
            )
        )
    if result.open_sizes:
        rows.append(("open sizes", f"measured at {result.open_sizes}"))
    if result.batch is not None:
        advice = result.batch_note or "--batch dynamic makes it dynamic, where that can be verified"
        rows.append(("batch", f"the model supports batches of {result.batch} only; {advice}"))
    else:
        rows.append(("batch", describe_batch("dynamic", result.batch_proof)))
        rows += [("note", result.batch_note)] if result.batch_note else []
    if result.restored is not None:
        rows += _restored_rows(result.restored)
    if result.weights is not None:
        rows += weight_rows(result.weights)
    rows.append(("preprocessing", shown_preprocessing(result.preprocessing, result.preprocessing_origin)))
    return rows


def _restored_rows(report: RestoreReport) -> list[tuple[str, Any]]:
    restored = f"{len(report.restored)}, calibrated on {report.images} images"
    named = f", named as those of {report.architecture}" if report.architecture else ""
    return [
        ("BatchNorms restored", restored + named),
        (
            "calibration set",
            f"sha256 {report.images_sha256[:16]}..., standard error of the means {report.uncertainty:.2g} deviations",
        ),
        ("drift in training mode", _drift(report.train_drift)),
    ]


def _drift(drift: float | None) -> str:
    return "not measured, every batch was one image" if drift is None else f"{drift:.2g} of the largest output"


def weight_rows(match: WeightMatch) -> list[tuple[str, Any]]:
    """What `--weights` loaded, by which rules, and what that changed."""
    rows: list[tuple[str, Any]] = [
        ("weights loaded", f"{len(match.matched)}: {match.rules}"),
        ("weights file", str(match.origin)),
        ("weights changed", match.effect),
    ]
    rows += [("not in the file", ", ".join(match.missing))] if match.missing else []
    rows += [("not used", ", ".join(match.unused))] if match.unused else []
    return rows


def weight_tables(match: WeightMatch | None) -> list[Any]:
    """Which tensor of a `.pth` went where, by which rule."""
    if match is None:
        return []
    from rich.table import Table

    table = Table("parameter", "from the file", "matched by", box=None)
    for entry in match.matched:
        table.add_row(entry.target, entry.key, entry.how)
    for name in match.missing:
        table.add_row(name, "-", "nothing")
    for key in match.unused:
        table.add_row("-", key, "nothing")
    return [table]
