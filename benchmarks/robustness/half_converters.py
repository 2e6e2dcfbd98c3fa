"""Where each float16 converter fails: rtool's own and onnxconverter-common, behind the same gate.

The demo's model, networks of the zoo with random weights, and random networks by both exporters are converted by each.
A file passes where it loads in ONNX Runtime and the cosine of its outputs to those of float32, with 16-bit rounding, is
at least 0.9999 with at most a tenth of the nodes back in float32. Inputs are random, as `export` draws them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import onnx
import torch

from ...converters.exporting.reexport import torch_to_onnx
from ...converters.precision.half import HalfConverter
from ...converters.precision.half_search import search_half
from ...converters.runtime.probes.probing import probe_inputs
from ...converters.runtime.runners import OnnxRunner
from ...converters.zoo.registry import architecture_preprocessing, build_architecture
from ...errors import RtoolError
from ..machine import describe_machine
from ..places import DEMO_MODEL, RESULTS
from .random_networks import draw, export

__all__ = ["CONVERTERS", "Outcome", "main", "table"]

CONVERTERS: tuple[HalfConverter, ...] = get_args(HalfConverter)
_ZOO = ("osnet_x0_25", "resnet50_ibn_a", "mobilefacenet", "iresnet18", "vit_tiny")
_RANDOM = 40
_GATE = 0.9999
_ROWS = 4


@dataclass(frozen=True)
class Outcome:
    """What became of one file with one converter."""

    model: str
    converter: str
    passed: bool
    cosine: float | None
    float32_nodes: int | None
    """Nodes back in float32, by a rule or by the search."""
    casts: int | None
    reason: str
    """Why it failed; "" where it passed."""


def models(zoo: Sequence[str], random: int) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Names and float32 files: the demo's, those of the zoo, random ones."""
    yield DEMO_MODEL.name, onnx.load(DEMO_MODEL)
    for name in zoo:
        torch.manual_seed(0)
        size = architecture_preprocessing(name)
        example = torch.zeros(2, size.channels, size.height, size.width)
        yield name, torch_to_onnx(build_architecture(name).eval(), example)
    for index in range(random):
        network, how = draw(0, index)
        try:
            proto = export(network, how)
        except Exception as error:  # torch's exporters do not take every network; what is not a file is not a case
            sys.stderr.write(f"random {index}: {type(error).__name__} in the exporter, left out\n")
            continue
        name = f"random {index} ({how.name}, {network.description})"
        if _runs(proto):
            yield name, proto
        else:
            sys.stderr.write(f"{name}: does not run in float32 on {_ROWS} images, left out\n")


def _runs(model: onnx.ModelProto) -> bool:
    """Whether the float32 file takes the inputs that its conversions are measured on; some traced one batch alone."""
    runner = OnnxRunner(model)
    try:
        runner.run(*probe_inputs(runner.inputs, _ROWS))
    except RtoolError:
        return False
    return True


def convert(name: str, model: onnx.ModelProto, converter: HalfConverter) -> Outcome:
    """Convert one file with one converter, and hold it to the gate."""
    try:
        inputs = probe_inputs(OnnxRunner(model).inputs, _ROWS)
        found = search_half(model, inputs, min_cosine=_GATE, converter=converter)
        OnnxRunner(found.half.model)
    except RtoolError as error:
        return Outcome(name, converter, False, None, None, None, str(error).splitlines()[0][:300])
    kept = len(found.half.float32_nodes)
    return Outcome(name, converter, True, round(found.parity.min_cosine, 7), kept, found.half.casts, "")


def table(outcomes: Sequence[Outcome]) -> str:
    """A line of totals per converter, then every file that one of them fails on, with the reason."""
    lines = ["| converter | files | pass | float32 nodes | Casts added |", "|---|---|---|---|---|"]
    for converter in CONVERTERS:
        own = [outcome for outcome in outcomes if outcome.converter == converter]
        passed = [outcome for outcome in own if outcome.passed]
        nodes, casts = (sum(getattr(outcome, key) or 0 for outcome in passed) for key in ("float32_nodes", "casts"))
        lines.append(f"| {converter} | {len(own)} | {len(passed)} | {nodes} | {casts} |")
    lines += ["", "| file | converter | fails because |", "|---|---|---|"]
    failed = [outcome for outcome in outcomes if not outcome.passed]
    lines += [f"| {o.model} | {o.converter} | {o.reason.replace('|', '/')} |" for o in failed]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert every file with both, and write the dated table."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.robustness.half_converters", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--zoo", nargs="*", default=_ZOO, help="networks of the zoo")
    parser.add_argument("--random", type=int, default=_RANDOM, help="how many random networks")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the dated files go")
    options = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    for name, model in models(options.zoo, options.random):
        for converter in CONVERTERS:
            outcomes.append(convert(name, model, converter))
            sys.stderr.write(f"{outcomes[-1]}\n")
    written = table(outcomes)
    sys.stdout.write(written)
    now = datetime.now(UTC)
    path = options.results / f"{now:%Y-%m-%d}-half-converters.json"
    document = {
        "date": now.isoformat(timespec="seconds"),
        "zoo": list(options.zoo),
        "random": options.random,
        "machine": describe_machine(),
        "gate": _GATE,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    path.with_suffix(".md").write_text(f"# Float16 converters, {now:%Y-%m-%d}\n\n{written}")
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
