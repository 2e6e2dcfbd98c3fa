"""How much of ONNX the converter covers: every conformance case is passed, refused, wrong or crashed.

    python -m rtool.benchmarks.conversion.onnx_conformance  node cases, both variants, and the models on disk
    python -m rtool.benchmarks.conversion.onnx_conformance --only Resize,Pad  node cases that use these operators
    python -m rtool.benchmarks.conversion.onnx_conformance --models FOLDER    also every .onnx file under FOLDER
    python -m rtool.benchmarks.conversion.onnx_conformance --revisions  also the earlier revisions of every operator

The node cases run twice: unchanged, and with all inputs but the first as initializers, like the weights of real files.
Outputs must have the expected shape and element type, and differ by no more than the tolerance that the case states (at
least one unit in the last place of the largest element, because the rounding of a sum depends on its order). Results go
to dated files in `results/`. Exit code 1 when a case is wrong or crashed.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from ...converters.lowering.conversion import onnx_to_torch
from ...converters.lowering.values import torch_tensor
from ...converters.records.record import require_record
from ...errors import RtoolError
from ..operators.onnx_cases import Case, cases_on_disk, folder_cases, node_cases, with_initializers
from ..places import RESULTS
from .onnx_revisions import revision_cases

__all__ = ["Outcome", "Status", "compare_outputs", "main", "run_case", "run_suite"]

Status = Literal["passed", "refused", "wrong", "crashed"]
_STATUSES: tuple[Status, ...] = ("passed", "refused", "wrong", "crashed")
_ULP = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7, "float8_e4m3fn": 2.0**-3, "float8_e5m2": 2.0**-2}


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case; `detail` is the reason why it did not pass."""

    suite: str
    case: str
    status: Status
    detail: str
    opset: int
    operators: list[str]


def run_case(case: Case, suite: str = "node") -> Outcome:
    """Convert and run one case, and compare the outputs with the expected ones."""
    status, detail = _status(case)
    return Outcome(suite, case.name, status, detail, case.opset, case.operators)


def _status(case: Case) -> tuple[Status, str]:
    try:
        module = onnx_to_torch(case.model)
        arguments = [_tensor(case, spec.name) for spec in require_record(module).inputs]
    except RtoolError as refused:
        return "refused", str(refused)
    except Exception as error:
        return "crashed", f"converting: {type(error).__name__}: {error}"
    try:
        with torch.no_grad():
            results = module(*arguments)
    except Exception as error:
        return "crashed", f"running: {type(error).__name__}: {error}"
    got = results if isinstance(results, tuple) else (results,)
    return compare_outputs(case, got)


def _tensor(case: Case, name: str) -> torch.Tensor:
    """An input as a tensor of the element type that the graph declares, bit for bit."""
    (declared,) = (v.type.tensor_type.elem_type for v in case.model.graph.input if v.name == name)
    return torch_tensor(ir.Tensor(np.asarray(case.inputs[name]), dtype=ir.DataType(declared)))


def compare_outputs(case: Case, got: Sequence[Any]) -> tuple[Status, str]:
    """Passed or wrong, and why: number, shape, element type and values of the outputs."""
    if len(got) != len(case.outputs):
        return "wrong", f"{len(got)} outputs, expected {len(case.outputs)}"
    for value, expected, result in zip(case.model.graph.output, case.outputs, got, strict=True):
        difference = _difference(np.asarray(expected), result, value, case)
        if difference:
            return "wrong", f"output '{value.name}': {difference}"
    return "passed", ""


def _difference(expected: NDArray[Any], result: Any, value: onnx.ValueInfoProto, case: Case) -> str:
    """Why a result is not the expected array; "" when it is."""
    if not isinstance(result, torch.Tensor):
        return f"{result if isinstance(result, str) else f'a {type(result).__name__}'}, expected a tensor"
    declared = ir.DataType(value.type.tensor_type.elem_type)
    dtype = str(result.dtype).removeprefix("torch.")
    if dtype != _torch_name(declared):
        return f"element type {dtype}, expected {declared.name}"
    if tuple(result.shape) != expected.shape:
        return f"shape {list(result.shape)}, expected {list(expected.shape)}"
    a = expected.astype(np.complex128 if expected.dtype.kind == "c" else np.float64)
    b = _widened(result)
    ulp = _ULP.get(dtype, 0.0)
    rtol = max(case.rtol, ulp)
    finite = np.abs(a[np.isfinite(a)])
    atol = max(case.atol, ulp * float(finite.max()) if finite.size else 0.0)
    close = np.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True)
    if close.all():
        return ""
    with np.errstate(invalid="ignore"):
        error = np.abs(np.where(close, 0, b - a)).max()
    return f"{(~close).sum()} of {close.size} elements differ, by up to {error:.3g} (rtol {rtol:g}, atol {atol:g})"


def _torch_name(declared: ir.DataType) -> str:
    from ...converters.lowering.values import torch_dtype

    return str(torch_dtype(declared)).removeprefix("torch.")


def _widened(result: torch.Tensor) -> NDArray[Any]:
    result = result.detach()
    if result.dtype == torch.uint64:
        return result.numpy().astype(np.float64)
    if result.is_complex():
        return result.to(torch.complex128).resolve_conj().numpy()
    return result.to(torch.float64).numpy()


def run_suite(suite: str, cases: Iterable[Case], processes: int = 1) -> list[Outcome]:
    """The outcome of every case of a suite, in order; each process has one thread."""
    if processes > 1:
        with ProcessPoolExecutor(processes, initializer=_one_thread) as pool:
            return list(pool.map(run_case, cases, _forever(suite), chunksize=16))
    _one_thread()
    return [run_case(case, suite) for case in cases]


def _forever(item: str) -> Iterator[str]:
    while True:
        yield item


def _one_thread() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def _suites(only: set[str], models: Path | None, revisions: bool) -> Iterator[tuple[str, list[Case]]]:
    nodes = [case for case in node_cases() if not only or only & set(case.operators) or case.name in only]
    yield "node", nodes
    yield "node, weights as initializers", [case for case in map(with_initializers, nodes) if case is not None]
    if revisions:
        yield "node, earlier opsets, against ONNX Runtime", list(revision_cases(nodes))
    if not only:
        for kind in ("pytorch-converted", "pytorch-operator", "simple", "light"):
            yield kind, list(cases_on_disk(kind))
    if models is not None:
        yield models.name, list(folder_cases(models))


def _table(suites: dict[str, list[Outcome]], native: set[str]) -> str:
    """Markdown: one row per suite, then the cases that did not pass."""
    lines = ["| suite | cases | passed | refused | wrong | crashed |", "|---|---|---|---|---|---|"]
    for suite, outcomes in suites.items():
        lines.append(_row(suite, outcomes))
        plain = [outcome for outcome in outcomes if outcome.case in native]
        if len(plain) < len(outcomes):
            lines.append(_row(f"{suite}: NumPy's element types", plain))
    refused = Counter(_reason(o) for outcomes in suites.values() for o in outcomes if o.status == "refused")
    lines += ["", "| refused because | times |", "|---|---|"]
    lines += [f"| {reason} | {count} |" for reason, count in refused.most_common()]
    bad = [o for outcomes in suites.values() for o in outcomes if o.status in ("wrong", "crashed")]
    if bad:
        lines += ["", "| not right | suite | status | detail |", "|---|---|---|---|"]
        lines += [f"| {o.case} | {o.suite} | {o.status} | {o.detail.splitlines()[0][:160]} |" for o in bad]
    return "\n".join(lines) + "\n"


def _row(suite: str, outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.status for outcome in outcomes)
    return f"| {suite} | {len(outcomes)} | " + " | ".join(str(counts[status]) for status in _STATUSES) + " |"


def _reason(outcome: Outcome) -> str:
    """The first refusal of a case without its node's name."""
    lines = outcome.detail.splitlines()
    line = lines[1] if len(lines) > 1 else lines[0]
    return line.partition("' ")[2] or line


def _write(table: str, suites: dict[str, list[Outcome]], folder: Path) -> Path:
    now = datetime.now(UTC)
    versions = {"onnx": onnx.__version__, "torch": torch.__version__, "numpy": np.__version__}
    document = {
        "date": now.isoformat(timespec="seconds"),
        "command": "python -m rtool.benchmarks.conversion.onnx_conformance",
        "versions": versions,
        "counts": {suite: dict(Counter(outcome.status for outcome in outcomes)) for suite, outcomes in suites.items()},
        "not passed": [asdict(o) for outcomes in suites.values() for o in outcomes if o.status != "passed"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y-%m-%d}-onnx-conformance.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    heading = f"# ONNX conformance, {now:%Y-%m-%d}\n\n{', '.join(f'{k} {v}' for k, v in versions.items())}\n\n"
    path.with_suffix(".md").write_text(heading + table)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.conversion.onnx_conformance",
        description=__doc__.split("\n")[0] if __doc__ else None,
    )
    parser.add_argument("--only", default="", help="operators or names of cases, comma-separated; writes no file")
    parser.add_argument("--models", type=Path, help="folder of .onnx files to compare with ONNX Runtime")
    parser.add_argument(
        "--revisions", action="store_true", help="also run the cases at the opsets of earlier revisions"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated files")
    options = parser.parse_args(arguments)
    only = set(filter(None, options.only.split(",")))
    suites: dict[str, list[Outcome]] = {}
    native: set[str] = set()
    for suite, cases in _suites(only, options.models, options.revisions):
        native |= {case.name for case in cases if case.is_native}
        suites[suite] = run_suite(suite, cases, options.processes)
    table = _table(suites, native)
    sys.stdout.write(table)
    if not only:
        sys.stdout.write(f"{_write(table, suites, options.results)}\n")
    return int(any(o.status in ("wrong", "crashed") for outcomes in suites.values() for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
