"""`rtool doctor`, `fetch` and `demo`: what this machine supports, a file for it, and the whole flow on it."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import GateError, PlatformError
from .output import Output, examples, output_options

__all__ = ["demo_command", "doctor_command", "fetch_command"]


@click.command("doctor", epilog=examples("rtool doctor", "rtool doctor --json"))
@output_options
def doctor_command(output: Output) -> None:
    """Report what this machine supports: devices, execution providers, Triton, versions."""
    from ..benchmarks import doctor

    report = doctor()
    rows = [
        (("✓ " if check.ok else "✗ ") + check.name, "\n".join(filter(None, (check.found, check.advice))))
        for check in report.checks
    ]
    missing = ", ".join(check.name for check in report.checks if not check.ok)
    output.emit(report, rows, brief=f"not usable: {missing}" if missing else "everything rtool needs is present")
    if not report.ok:
        raise PlatformError("something rtool needs is missing; see the lines marked ✗")


@click.command(
    "fetch",
    epilog=examples(
        f"rtool fetch https://example.org/osnet_x1_0.onnx --sha256 {'0123456789abcdef' * 4}",
        f"rtool fetch https://example.org/model?version=2 --sha256 {'0123456789abcdef' * 4} -o face.onnx",
    ),
)
@click.argument("url")
@click.option("--sha256", required=True, help="Of the content, 64 hexadecimal digits.")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), help="The file. [default: the last part of URL]"
)
@click.option(
    "--largest-gb", type=click.FloatRange(min=0, min_open=True), default=8.0, show_default=True, help="Give up beyond."
)
@output_options
def fetch_command(output: Output, url: str, sha256: str, target: Path | None, largest_gb: float) -> None:
    """Load a file by https, and keep it if its SHA-256 is the given one. No other command loads models."""
    from ..fetching import fetch

    fetched = fetch(url, target, sha256=sha256, largest_gb=largest_gb)
    rows = [("size", f"{fetched.size / 1e6:,.2f} MB"), ("sha256", fetched.sha256)]
    output.emit(
        fetched, rows if fetched.loaded else [*rows, ("loaded", "no: it was there already")], artefact=fetched.path
    )


@click.command("demo", epilog=examples("rtool demo", "rtool demo --output runs/demo --seed 1"))
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder for everything that is written; an earlier demo in it is replaced.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of data and training.")
@output_options
def demo_command(output: Output, folder: Path, seed: int) -> None:
    """Run the whole flow on built-in data, from a fused ONNX file to a fine-tuned model served by Triton."""
    from ..benchmarks import demo
    from ..benchmarks.whole_flow.summary import summary_tables

    result = demo(folder, seed=seed, progress=lambda line: click.echo(line, err=True))
    output.emit(result.summary, tables=summary_tables(result.summary), artefact=result.report)
    if not result.summary.passed:
        raise GateError(f"the demo missed a tolerance or its gain; see {result.report}")
