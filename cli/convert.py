"""`rtool inspect` and `rtool onnx2torch`: what is in a model file, and a trainable bundle from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..converters.records.json_text import parse_json
from ..errors import InputError
from .output import Output, examples, output_options

if TYPE_CHECKING:
    from ..converters.batchnorm.restore import RestoreReport
    from ..converters.bundles.inspection import Inspection
    from ..converters.bundles.onnx_to_bundle import OnnxToTorchResult
    from ..converters.records.preprocessing import Preprocessing
    from ..converters.records.record import TensorSpec

__all__ = ["inspect_command", "onnx2torch_command", "ops_command", "read_batch", "read_preprocessing"]


@click.command(
    "inspect",
    epilog=examples("rtool inspect model.onnx", "rtool inspect model.rtool --json", "rtool inspect osnet_x0_25"),
)
@click.argument("model")
@output_options
def inspect_command(output: Output, model: str) -> None:
    """Report what is in MODEL: inputs, batch, operators, size, fused or not, preprocessing, problems."""
    from ..converters import inspect

    result = inspect(model)
    output.emit(result, _inspection_rows(result), brief=_brief(result))


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
@click.option("--calibrate", help="Images to measure activations on: a folder or a generator like synthetic-people.")
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="How many of them to use.",
)
@click.option("--preprocessing", help="imagenet, arcface or a JSON file. [default: the file's, else guessed]")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Load this state_dict (.pth): fused, or with --restore-bn the original's.",
)
@click.option("--allow-partial", is_flag=True, help="Accept --weights that do not fill the model.")
@click.option("--freeze", multiple=True, help="Parameters that do not train, e.g. 'conv1.*'; repeatable.")
@click.option("--batch", help="Rewrite a fixed batch first: dynamic, or a number. [default: as the file]")
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
    batch: str | None,
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
                preprocessing=read_preprocessing(preprocessing),
                batch=read_batch(batch),
                overwrite=overwrite,
            )
        except KeyboardInterrupt:
            if state.exists():
                display.line(f"stopped; the same command continues from {state}")
            raise
    if result.restored is not None and result.restored.warning:
        click.echo(f"warning: {result.restored.warning}", err=True)
    output.emit(result, _conversion_rows(result), artefact=result.output, tables=_weight_tables(result))


@click.command("ops", epilog=examples("rtool ops", "rtool ops Resize", "rtool ops --json"))
@click.argument("operator", required=False)
@output_options
def ops_command(output: Output, operator: str | None) -> None:
    """List the ONNX operators that can be converted, or one OPERATOR."""
    from rich.table import Table

    from ..converters import ops

    result = ops(operator)
    table = Table("operator", "domain", "opsets", "trainable", box=None)
    for row in result.operators:
        table.add_row(row.operator, row.domain, row.opsets, "yes" if row.trainable else "")
    output.emit(result, tables=[table])


def read_preprocessing(text: str | None) -> Preprocessing | None:
    """What `--preprocessing` names: imagenet, arcface or a JSON file; None where it was not given."""
    if text is None:
        return None
    from ..converters.records.preprocessing import Preprocessing
    from ..converters.records.preprocessing_guess import PREPROCESSINGS
    from ..errors import nearest

    if text in PREPROCESSINGS:
        return PREPROCESSINGS[text]
    if not Path(text).is_file():
        raise InputError(f"--preprocessing {text}: no such file and no known name; {nearest(text, PREPROCESSINGS)}")
    try:
        return Preprocessing.from_dict(parse_json(Path(text).read_text(encoding="utf-8")))
    except InputError as error:
        raise InputError(f"{text}: {error}") from error
    except ValueError as error:
        raise InputError(f"{text}: expected a preprocessing as JSON ({error})") from error


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
    rows += [
        (f"parity, batch {entry.batch}", f"max relative error {entry.parity.max_rel:.2g} against ONNX Runtime")
        for entry in result.parity
    ]
    if result.batch is not None:
        advice = result.batch_note or "--batch dynamic makes it dynamic, where that can be verified"
        rows.append(("batch", f"the model supports batches of {result.batch} only; {advice}"))
    else:
        rows.append(("batch", describe_batch("dynamic", result.batch_proof)))
        rows += [("note", result.batch_note)] if result.batch_note else []
    if result.restored is not None:
        rows += _restored_rows(result.restored)
    if result.weights is not None:
        by_name = sum(entry.how == "name" for entry in result.weights.matched)
        matched = len(result.weights.matched)
        rows.append(("weights loaded", f"{matched}: {by_name} by name, {matched - by_name} by shape and order"))
        rows.append(("weights file", str(result.weights.origin)))
    rows.append(("preprocessing", result.preprocessing_origin or "unknown; state it with --preprocessing"))
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


def _weight_tables(result: OnnxToTorchResult) -> list[Any]:
    """Which tensor of a `.pth` went where."""
    if result.weights is None:
        return []
    from rich.table import Table

    table = Table("parameter", "from the file", "matched by", box=None)
    for entry in result.weights.matched:
        table.add_row(entry.target, entry.key, entry.how)
    for name in result.weights.missing:
        table.add_row(name, "-", "nothing")
    return [table]


def _inspection_rows(found: Inspection) -> list[tuple[str, Any]]:
    from ..converters.records.batch_proof import describe_batch
    from ..converters.records.preprocessing_guess import describe

    rows: list[tuple[str, Any]] = [
        ("file", f"{found.name} ({found.kind}, {found.size_bytes / 1e6:.2f} MB)"),
        ("sha256", found.sha256 or "-"),
        ("producer", found.producer or "-"),
        ("opset", ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items()) or "-"),
    ]
    rows += [("input", f"{spec.name} {spec.dtype} {_shape(spec)}") for spec in found.inputs]
    rows += [("output", f"{spec.name} {spec.dtype} {_shape(spec)}") for spec in found.outputs]
    rows += [
        ("batch", describe_batch(found.batch, found.batch_proof)),
        *(("fixed at", place) for place in found.fixed_batch_places),
        ("operators", ", ".join(f"{count} {name}" for name, count in found.operators.items())),
        ("parameters", f"{found.parameters:,} {found.precision}{_beside(found.buffers)}"),
    ]
    costs = [] if found.macs is None else [f"{found.macs / 1e6:,.1f} M MACs"]
    costs += [] if found.activations is None else [f"{found.activations / 1e6:,.2f} M activations"]
    if costs:
        rows.append(("per image", ", ".join(costs)))
    elif any(not isinstance(dim, int) for spec in found.inputs for dim in spec.shape[1:]):
        rows.append(("per image", "depends on the dynamic sizes of the input"))
    norms = found.batchnorms
    if norms is not None:
        restored = f", {norms.restored} restored" if norms.restored else ""
        rows.append(("BatchNorm", f"{norms.fused} fused into layers, {norms.present} present{restored}"))
        rows += [("cannot be folded", f"{kept.batchnorm}: {kept.reason}") for kept in norms.unfoldable[:5]]
        if len(norms.unfoldable) > 5:
            rows.append(("cannot be folded", f"and {len(norms.unfoldable) - 5} more, see --json"))
    rows.append(("preprocessing", describe(found.preprocessing, found.preprocessing_origin)))
    rows.append(("architecture", found.architecture or "unknown"))
    if found.chain:
        rows.append(("history", " -> ".join(link.step for link in found.chain)))
        rows += [(f"  {link.step}", link.detail) for link in found.chain]
    rows += [("problem", problem) for problem in found.problems] or [("problems", "none")]
    return rows


def _shape(spec: TensorSpec) -> str:
    """`batch x 3 x 256 x 128`."""
    return " x ".join("?" if size is None else str(size) for size in spec.shape) or "a number"


def _beside(buffers: int) -> str:
    return f", and {buffers:,} running statistics and fixed numbers" if buffers else ""


def _brief(found: Inspection) -> str:
    batch = f"batch {found.batch}" if isinstance(found.batch, int) else "any batch"
    problems = f"{len(found.problems)} problems" if found.problems else "no problems"
    what = found.architecture or "unknown architecture"
    return f"{found.name}: {what}, {found.parameters:,} parameters, {batch}, {problems}"
