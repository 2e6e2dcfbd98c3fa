"""`rtool inspect`: what is in a model, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import Output, examples, output_options
from .preprocessing import shown_preprocessing

if TYPE_CHECKING:
    from ..converters.inspection.inspection import Inspection
    from ..converters.inspection.served_inspection import ServedInspection
    from ..converters.records.record import TensorSpec

__all__ = ["inspect_command"]

_LISTED = 5
"""BatchNorms that cannot be folded, by name."""


@click.command(
    "inspect",
    epilog=examples(
        "rtool inspect model.onnx",
        "rtool inspect model.onnx --verify",
        "rtool inspect osnet_x0_25 --json",
        "rtool inspect triton://127.0.0.1:8001/osnet_b16",
    ),
)
@click.argument("model")
@click.option("--weights", type=click.Path(path_type=Path), help="Try this state_dict (.pth, or FILE:KEY) on it.")
@click.option(
    "--verify",
    is_flag=True,
    help="Also convert and run it: finds what the file alone does not show, and proves an open batch.",
)
@output_options
def inspect_command(output: Output, model: str, weights: Path | None, verify: bool) -> None:
    """Report what is in MODEL: inputs, batch, operators, size, fused or not, preprocessing, problems.

    Of triton://HOST:PORT/NAME what its server states: versions, inputs, outputs, batch, preprocessing, digest.
    """
    from ..converters import inspect

    result = inspect(model, weights, verify=verify)
    if result.kind == "served":
        output.emit(
            result, _served_rows(result), brief=f"{result.name}: version {result.version}, batch {result.batch}"
        )
        return
    rows = _inspection_rows(result)
    if result.weights is None:
        output.emit(result, rows, brief=_brief(result))
        return
    from .convert import weight_rows, weight_tables

    rows += weight_rows(result.weights)
    output.emit(result, rows, brief=_brief(result), tables=weight_tables(result.weights))


def _served_rows(found: ServedInspection) -> list[tuple[str, Any]]:
    at_most = "" if isinstance(found.batch, int) else f", {found.max_batch} rows per request at most"
    behind = [("packs for", found.target)] if found.target else []
    return [
        ("model", f"{found.name} ({found.backend}, {'CPU' if found.on_cpu else 'GPU or chosen by the server'})"),
        ("version", f"{found.version}; ready: {', '.join(map(str, found.versions))}"),
        ("sha256", found.sha256 or "not stated by the server"),
        *behind,
        *(("input", f"{spec.name} {spec.dtype} {_shape(spec)}") for spec in found.inputs),
        *(("output", f"{spec.name} {spec.dtype} {_shape(spec)}") for spec in found.outputs),
        ("batch", f"fixed: {found.batch}" if isinstance(found.batch, int) else f"{found.batch}{at_most}"),
        ("preprocessing", shown_preprocessing(found.preprocessing, found.preprocessing_origin)),
    ]


def _inspection_rows(found: Inspection) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [
        ("file", f"{found.name} ({found.kind}, {found.size_bytes / 1e6:.2f} MB)"),
        ("sha256", found.sha256 or "-"),
        ("producer", found.producer or "-"),
        ("opset", ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items()) or "-"),
    ]
    rows += [("input", _input(spec, found)) for spec in found.inputs]
    rows += [("output", f"{spec.name} {spec.dtype} {_shape(spec)}") for spec in found.outputs]
    if found.external_files:
        files = ", ".join(found.external_files[:3]) + (", ..." if len(found.external_files) > 3 else "")
        rows.append(("external data", f"{files} ({found.external_bytes / 1e6:.2f} MB)"))
    rows += [
        ("batch", f"fixed: {found.batch}" if isinstance(found.batch, int) else f"{found.batch}, {found.batch_proof}"),
        *(("fixed at", place) for place in found.fixed_batch_places),
        ("operators", ", ".join(f"{count} {name}" for name, count in found.operators.items())),
        ("parameters", f"{found.parameters:,} {found.precision}{_beside(found.buffers)}"),
    ]
    if found.quantised:
        rows.append(("quantised", found.quantised))
    costs = [] if found.macs is None else [f"{found.macs / 1e6:,.1f} M MACs"]
    costs += [] if found.activations is None else [f"{found.activations / 1e6:,.2f} M activations"]
    if costs:
        rows.append(("per image", ", ".join(costs)))
    elif any(not isinstance(dim, int) for spec in found.inputs for dim in spec.shape[1:]):
        rows.append(("per image", "depends on the dynamic sizes of the input"))
    rows += _batchnorm_rows(found)
    rows.append(("preprocessing", shown_preprocessing(found.preprocessing, found.preprocessing_origin)))
    rows.append(("architecture", found.architecture or "unknown"))
    if found.chain:
        rows.append(("history", " -> ".join(link.step for link in found.chain)))
        rows += [(f"  {link.step}", link.detail) for link in found.chain]
    none = "none" if found.verified or found.kind != "onnx" else "none in the file; --verify also converts it"
    rows += [("problem", problem) for problem in found.problems] or [("problems", none)]
    return rows


def _batchnorm_rows(found: Inspection) -> list[tuple[str, Any]]:
    norms = found.batchnorms
    if norms is None:
        return []
    restored = f", {norms.restored} restored" if norms.restored else ""
    fused = "unknown how many were fused" if norms.fused is None else f"{norms.fused} fused into layers"
    rows = [("BatchNorm", f"{fused}, {norms.present} present{restored}")]
    kept = norms.unfoldable or ()
    rows += [("cannot be folded", f"{entry.batchnorm}: {entry.reason}") for entry in kept[:_LISTED]]
    if len(kept) > _LISTED:
        rows.append(("cannot be folded", f"and {len(kept) - _LISTED} more, see --json"))
    return rows


def _input(spec: TensorSpec, found: Inspection) -> str:
    unread = ", which no node reads" if spec.name in found.unread_inputs else ""
    return f"{spec.name} {spec.dtype} {_shape(spec)}{unread}"


def _shape(spec: TensorSpec) -> str:
    """`batch x 3 x 256 x 128`."""
    return " x ".join("?" if size is None else str(size) for size in spec.shape) or "a number"


def _beside(buffers: int) -> str:
    return f", and {buffers:,} running statistics and fixed numbers" if buffers else ""


def _brief(found: Inspection) -> str:
    batch = f"batch {found.batch}" if isinstance(found.batch, int) else f"batch {found.batch}, {found.batch_proof}"
    problems = f"{len(found.problems)} problems" if found.problems else "no problems"
    what = found.architecture or "unknown architecture"
    return f"{found.name}: {what}, {found.parameters:,} parameters, {batch}, {problems}"
