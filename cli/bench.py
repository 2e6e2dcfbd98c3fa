"""`rtool bench`: parity, latency and load, each measured and printed as one table."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import GateError, InputError
from .output import Output, examples, output_options, to_plain
from .preprocessing import preprocessing_option
from .probes import probe_option, read_probes

__all__ = ["bench"]


def _progress(line: str) -> None:
    click.echo(line, err=True)


@click.group("bench")
def bench() -> None:
    """Compare and time models and what a search found, or load a server."""


@bench.command(
    "parity",
    short_help="Compare two models against a tolerance.",
    epilog=examples(
        "rtool bench parity model.onnx model.rtool",
        "rtool bench parity model.onnx triton://127.0.0.1:8001/osnet --max-rel 0",
        "rtool bench parity fp32.onnx fp16.onnx --min-cosine 0.9999 --data crops/",
    ),
)
@click.argument("reference")
@click.argument("candidate")
@click.option("--batch", default=2, show_default=True, type=click.IntRange(1), help="Rows; ignored for a fixed batch.")
@click.option("--data", help="Compare on the first images of this data set instead of random numbers.")
@click.option(
    "--max-rel", type=float, help="Largest relative error allowed.  [default: 1e-5, or a 16-bit file's rounding]"
)
@click.option("--min-cosine", type=float, help="Smallest cosine similarity allowed per output row.")
@click.option("--weights", type=click.Path(path_type=Path), help="Load this state_dict (.pth) into CANDIDATE first.")
@preprocessing_option
@click.option("--seed", default=0, show_default=True, help="Seed of the random inputs.")
@click.option("--device", default="cpu", show_default=True, help="Device of CANDIDATE: cpu, cuda or cuda:N.")
@probe_option
@output_options
def parity_command(
    output: Output,
    reference: str,
    candidate: str,
    batch: int,
    data: str | None,
    preprocessing: str,
    max_rel: float | None,
    min_cosine: float | None,
    weights: Path | None,
    seed: int,
    device: str,
    probe: tuple[str, ...],
) -> None:
    """Run REFERENCE and CANDIDATE on the same inputs and compare their outputs.

    Exit code 1 when the outputs differ by more than the tolerance.
    """
    from ..benchmarks import parity

    report = parity(
        reference,
        candidate,
        batch=batch,
        data=data,
        preprocessing=preprocessing,
        max_rel="auto" if max_rel is None else max_rel,
        min_cosine=min_cosine,
        seed=seed,
        device=device,
        weights=weights,
        probes=read_probes(probe),
    )
    numbers, verdict = report.parity, "PASSED" if report.passed else "FAILED"
    max_rel = report.max_rel
    output.emit(
        report,
        [
            ("reference", report.reference),
            ("candidate", report.candidate),
            ("inputs", f"batch {report.batch}, {report.inputs}"),
            ("max abs error", f"{numbers.max_abs:.3g}"),
            (
                "max relative error",
                f"{numbers.max_rel:.3g}" + ("" if max_rel is None else f"  (<= {max_rel:g})"),
            ),
            (
                "min cosine",
                f"{numbers.min_cosine:.8f}" + ("" if min_cosine is None else f"  (>= {min_cosine:g})"),
            ),
            ("rank agreement", f"{numbers.rank_agreement:.4f}"),
            *([("reason", report.reason)] if report.reason else []),
            *(("nonsense", said) for said in report.nonsense),
            ("verdict", verdict),
        ],
        brief=f"{verdict}: max relative error {numbers.max_rel:.3g}, min cosine {numbers.min_cosine:.8f}",
    )
    if not report.passed:
        differs = f"{candidate} differs from {reference} by more than the tolerance"
        raise GateError("\n".join(report.nonsense) or differs)


@bench.command(
    "latency",
    short_help="Time models side by side.",
    epilog=examples(
        "rtool bench latency model.onnx model_fp16.onnx --batch 16",
        "rtool bench latency model.onnx model.rtool --rounds 200 --save latency.json",
    ),
)
@click.argument("models", nargs=-1, required=True)
@click.option("--batch", default=1, show_default=True, help="Rows per call; ignored for a fixed batch.")
@click.option("--rounds", default=50, show_default=True, help="Calls per model; the models take turns.")
@click.option("--warmup", default=5, show_default=True, help="Calls per model before the measurement.")
@click.option("--threads", type=int, help="Threads per model.  [default: the runtime's]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@probe_option
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report and every sample to this JSON file.",
)
@output_options
def latency_command(
    output: Output,
    models: tuple[str, ...],
    batch: int,
    rounds: int,
    warmup: int,
    threads: int | None,
    device: str,
    probe: tuple[str, ...],
    save: Path | None,
) -> None:
    """Time MODELS side by side: milliseconds per call, and the ratio to the first model with its 95 % interval."""
    from rich.table import Table

    from ..benchmarks import latency

    if save is not None and not save.parent.is_dir():
        raise InputError(f"--save {save}: the folder {save.parent} does not exist; create it first")
    probes = read_probes(probe)
    report = latency(models, batch=batch, rounds=rounds, warmup=warmup, threads=threads, device=device, probes=probes)
    if save is not None:
        try:
            save.write_text(json.dumps(to_plain(report), indent=2) + "\n")
        except OSError as error:
            raise InputError(f"--save {save}: cannot be written: {error.strerror}") from error
    table = Table()
    table.add_column("model", overflow="fold")
    for heading in ("p50 ms", "p95 ms", "p99 ms", "crops/s", "ratio", "95 % interval"):
        table.add_column(heading, no_wrap=True, justify="right")
    for row in report.rows:
        numbers = [f"{value:.2f}" for value in (row.p50, row.p95, row.p99)]
        interval = f"{row.ratio_low:.3f} .. {row.ratio_high:.3f}"
        table.add_row(row.model, *numbers, f"{row.samples_per_second:.0f}", f"{row.ratio:.3f}", interval)
    conditions: list[tuple[str, object]] = [("batch", report.batch), ("rounds", report.rounds)]
    if report.open_sizes:
        conditions.append(("open sizes", report.open_sizes))
    output.emit(
        report,
        conditions,
        tables=[table],
        artefact=save,
        brief="" if save else "; ".join(f"{row.model} p50 {row.p50:.2f} ms" for row in report.rows),
    )


@bench.command(
    "operations",
    short_help="Time the operations of a search space.",
    epilog=examples(
        "rtool bench operations examples/search_demo.yaml -o costs.json",
        "rtool bench operations search.yaml search.channels=32 -o costs.json --rounds 200",
    ),
)
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option(
    "-o", "--output", "path", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The table to write."
)
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Images per call.")
@click.option("--rounds", default=50, show_default=True, help="Calls per operation; they take turns.")
@click.option("--threads", default=1, show_default=True, help="Threads of ONNX Runtime.")
@click.option("--check", default=0, metavar="N", help="Hold the table against N random cells that are timed whole.")
@output_options
def operations_command(
    output: Output,
    config: Path,
    overrides: tuple[str, ...],
    path: Path,
    batch: int,
    rounds: int,
    threads: int,
    check: int,
) -> None:
    """Time every operation of the search space of CONFIG at every place, as `search.cost.table` takes it."""
    from ..benchmarks import operations
    from ..converters.files.atomic_file import check_file_output

    check_file_output(path)
    table = operations(config, overrides, batch=batch, rounds=rounds, threads=threads, check=check, report=_progress)
    table.write(path)
    slowest = max(table.milliseconds.items(), key=lambda item: item[1])
    (operation, place), time = slowest
    output.emit(
        {"path": str(path), "rest_ms": table.rest_ms, "operations": len(table.milliseconds)},
        [
            ("images", f"{table.height}x{table.width}, batch {batch}"),
            ("times", f"{len(table.milliseconds)}, of {len(table.space.operations)} operations"),
            ("without edges", f"{table.rest_ms:.3f} ms per image"),
            ("slowest", f"{operation} at {place.channels}x{place.height}x{place.width}: {time:.3f} ms per image"),
            *(
                [("check", f"rank correlation {table.conditions['check']['rank_correlation']}, {check} cells")]
                if check
                else []
            ),
        ],
        artefact=path,
    )


@bench.command(
    "search",
    short_help="Compare what a search found.",
    epilog=examples(
        "rtool bench search runs/search/20261130-120000 runs/found/* runs/random/* runs/osnet/*",
        "rtool bench search SEARCH RUN RUN --closed-set held_out_images/",
    ),
)
@click.argument("search", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--closed-set", help="Images of the training identities that no run saw: adds top-1 of the classifiers.")
@click.option("--rounds", default=50, show_default=True, help="Calls per network; they take turns.")
@click.option("--threads", default=1, show_default=True, help="Threads of ONNX Runtime.")
@output_options
def search_command(
    output: Output, search: Path, runs: tuple[Path, ...], closed_set: str | None, rounds: int, threads: int
) -> None:
    """Put trained networks, RUNS, beside the cell that SEARCH found, in a table and on the page of the search.

    Runs of one network with other seeds are one row.
    """
    from rich.table import Table

    from ..benchmarks.search_comparison import search as compare

    report = compare(search, runs, closed_set=closed_set, rounds=rounds, threads=threads, report=_progress)
    table = Table()
    table.add_column("network", overflow="fold")
    headings = ("role", "parameters", "MACs", "ms", "seeds", "mAP", "rank1", "top1")
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="right")
    for each in report.networks:
        metrics = ["" if (mean := each.mean(name)) is None else f"{mean:.3f}" for name in ("mAP", "rank1", "top1")]
        costs = [f"{each.parameters:,}", f"{each.macs:,}", f"{each.latency_ms:.2f}", str(len(each.metrics))]
        table.add_row(each.name, each.role, *costs, *metrics)
    lines = [] if report.percentile is None else [("found cell", str(report.percentile))]
    output.emit(report, lines, tables=[table], artefact=report.page)


@bench.command(
    "serving",
    short_help="Load a Triton server: latency and throughput.",
    epilog=examples(
        "rtool bench serving 127.0.0.1:8001 osnet --concurrency 8",
        "rtool bench serving 127.0.0.1:8001 arcface --rate 50 --rows 4",
        "rtool bench serving 127.0.0.1:8001 osnet --rows 16 --explain",
    ),
)
@click.argument("url")
@click.argument("model")
@click.option("--concurrency", default=4, show_default=True, help="Closed loop: requests in flight.")
@click.option("--rate", type=float, help="Open loop: requests per second, on a Poisson schedule.")
@click.option("--rows", default=1, show_default=True, help="Rows per request; ignored for a fixed batch.")
@click.option("--window", default=2.0, show_default=True, help="Seconds per measurement window.")
@click.option(
    "--max-windows", default=10, show_default=True, help="Most windows to measure; stops earlier when three agree."
)
@click.option("--explain", "explained", is_flag=True, help="Show where the time of a request goes.")
@click.option(
    "--metrics", help="With --explain: host:port of the server's metrics.  [default: of a server of this user]"
)
@output_options
def serving_command(
    output: Output,
    url: str,
    model: str,
    concurrency: int,
    rate: float | None,
    rows: int,
    window: float,
    max_windows: int,
    explained: bool,
    metrics: str | None,
) -> None:
    """Load MODEL on the Triton at URL (host:port of gRPC) and measure latency and throughput."""
    from ..benchmarks import serving

    if metrics is not None and not explained:
        raise InputError("bench serving: --metrics would have no effect without --explain; leave it out")
    report = serving(
        url,
        model,
        concurrency=concurrency,
        rate=rate,
        rows=rows,
        window=window,
        max_windows=max_windows,
        explained=explained,
        metrics=metrics,
    )
    output.emit(
        report,
        [
            ("load", report.mode),
            ("requests", f"{report.requests} of {report.rows_per_request} rows, {report.errors} errors"),
            (
                "throughput",
                f"{report.requests_per_second:.1f} requests/s, {report.crops_per_second:.1f} crops/s",
            ),
            (
                "latency ms",
                f"p50 {report.p50:.2f}  p90 {report.p90:.2f}  p95 {report.p95:.2f}  p99 {report.p99:.2f}",
            ),
            ("from due time ms", f"p50 {report.sched_p50:.2f}  p99 {report.sched_p99:.2f}"),
            ("server ms", f"queue {report.server_queue_ms:.2f}  compute {report.server_compute_ms:.2f}"),
            ("mean batch", f"{report.mean_batch:.2f}"),
            ("stable", "yes" if report.stable else "no: use longer windows"),
            (
                "client",
                "LIMITING: the client, not the server, limits these figures" if report.client_bound else "not limiting",
            ),
            *((f"  {one.part}", f"{one.ms:.3f} ms  {one.share:.1%}") for one in report.explained),
        ],
        brief=f"{report.crops_per_second:.1f} crops/s, p50 {report.p50:.2f} ms, {report.errors} errors",
    )
