"""How long and how readable `model.py` is: 8 networks x 2 exporters x 4 ways to leave or optimise the file.

    python -m rtool.benchmarks.conversion.model_source  everything: some minutes
    python -m rtool.benchmarks.conversion.model_source --network osnet_x0_25  one row

Every file is converted, its `model.py` generated and executed, the weights loaded strictly, and the output compared
with the module's and with ONNX Runtime's on the very file. Counted are lines and uses of `getattr`. Bounds: no
`getattr`, and at most 1.3 times the lines of the best of the network's eight files. Exit code 1 when one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from ...converters.bundles.codegen.module_source import generate_source
from ...converters.lowering.conversion import onnx_to_torch
from ...converters.runtime.parity import measure_parity
from ...converters.runtime.runners import OnnxRunner
from ..machine import describe_machine
from ..places import RESULTS
from .folded_networks import images_for, randomised
from .window_networks import SIZE, ConvNeXt, Swin

__all__ = ["EXPORTERS", "NETWORKS", "OPTIMISERS", "Cell", "exported_by", "main", "measure", "missed", "table"]

ZOO_NETWORKS = ("osnet_x0_25", "iresnet18", "mobilefacenet", "resnet50_ibn_a", "pcb", "vit_tiny")
NETWORKS = (*ZOO_NETWORKS, "convnext_like", "swin_like")
EXPORTERS: Mapping[str, int] = {"torchscript": 17, "dynamo": 20}
"""Exporter -> opset."""
MOST_LINES = 1.3
"""Times the lines of the network's shortest file."""
PARITY = 1e-5
_BATCH = 2


@dataclass(frozen=True)
class Cell:
    """One file: what was generated for it. `problem` says why nothing was."""

    network: str
    exporter: str
    optimiser: str
    lines: int = 0
    getattrs: int = 0
    longest: int = 0
    """Characters of the longest line."""
    error: float = 0.0
    """Of the executed text against ONNX Runtime, relative to the largest output."""
    equal: bool = False
    """Whether the executed text gives bit for bit what the module gives."""
    problem: str = ""


def network_and_images(name: str) -> tuple[nn.Module, Tensor]:
    """A network in eval mode, no two of its weights equal, and seeded images [2, 3, H, W] float32 for it."""
    if name in ZOO_NETWORKS:
        return randomised(name), images_for(name, _BATCH)
    torch.manual_seed(0)
    module = (ConvNeXt if name == "convnext_like" else Swin)().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module, torch.randn(_BATCH, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def exported_by(exporter: str, module: nn.Module, images: Tensor) -> onnx.ModelProto:
    """The file that `exporter` writes in eval mode, batch dynamic."""
    file = io.BytesIO()
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["embedding"]}
    with _quietly():
        if exporter == "torchscript":
            axes = {"dynamic_axes": {"images": {0: "batch"}, "embedding": {0: "batch"}}, "dynamo": False}
        else:
            axes = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "dynamo": True, "verbose": False}
        torch.onnx.export(module, (images,), file, opset_version=EXPORTERS[exporter], **names, **axes)  # type: ignore[arg-type]
    return onnx.load_from_string(file.getvalue())


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    with _quietly():
        result = onnxslim.slim(_copy(model))
    assert isinstance(result, onnx.ModelProto)
    return result


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    result, _ = onnxsim.simplify(_copy(model))
    assert isinstance(result, onnx.ModelProto)
    return result


def _by_onnxruntime(model: onnx.ModelProto) -> onnx.ModelProto:
    """What ONNX Runtime writes after its basic, device-independent optimisations."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


OPTIMISERS: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "raw": lambda model: model,
    "onnxslim": _slimmed,
    "onnxsim": _simplified,
    "onnxruntime": _by_onnxruntime,
}


def measure(network: str, exporter: str, optimiser: str, model: onnx.ModelProto, images: Tensor) -> Cell:
    """Convert `model`, generate, execute and compare."""
    try:
        module = onnx_to_torch(model)
        text = generate_source(module)
        namespace = types.ModuleType("generated")
        exec(compile(text, "model.py", "exec"), namespace.__dict__)
        alone = namespace.Model().eval()
        alone.load_state_dict(module.state_dict())
        with torch.no_grad():
            got, wanted = alone(images), module(images)
    except Exception as error:  # whatever it is, the table shows it
        return Cell(network, exporter, optimiser, problem=f"{type(error).__name__}: {error}"[:200])
    parity = measure_parity(OnnxRunner(model).run(images.numpy()), [got.numpy()])
    lines = text.splitlines()
    longest = max(map(len, lines))
    count = text.count("getattr") + text.count("add_module(")
    return Cell(network, exporter, optimiser, len(lines), count, longest, parity.max_rel, torch.equal(got, wanted))


def missed(cells: Sequence[Cell]) -> list[str]:
    """Every bound that does not hold, with its cell."""
    best = {
        network: min((c.lines for c in cells if c.network == network and c.lines), default=0) for network in NETWORKS
    }
    lines = []
    for cell in cells:
        name = f"{cell.network}, {cell.exporter}, {cell.optimiser}"
        if cell.problem:
            lines.append(f"{name}: {cell.problem}")
        elif cell.getattrs:
            lines.append(f"{name}: {cell.getattrs} getattr or add_module")
        elif cell.lines > MOST_LINES * best[cell.network]:
            lines.append(f"{name}: {cell.lines} lines, {cell.lines / best[cell.network]:.2f} times the best")
        elif not (cell.error <= PARITY and cell.equal):
            lines.append(f"{name}: error {cell.error:.1e}, {'equal to' if cell.equal else 'unlike'} the module")
    return lines


def table(cells: Sequence[Cell]) -> str:
    """Markdown: lines of each file, one row per network, then what is missed."""
    columns = [(exporter, optimiser) for exporter in EXPORTERS for optimiser in OPTIMISERS]
    found = {(cell.network, cell.exporter, cell.optimiser): cell for cell in cells}
    lines = [
        "Lines of `model.py`, with the uses of `getattr` behind a slash where there are any.",
        "",
        f"| network | {' | '.join(map(' '.join, columns))} | worst / best | error |",
        f"|---|{'---|' * (len(columns) + 2)}",
    ]
    for network in dict.fromkeys(cell.network for cell in cells):
        row = [found[key] for column in columns if (key := (network, *column)) in found]
        texts = ["refused" if c.problem else f"{c.lines}/{c.getattrs}" if c.getattrs else str(c.lines) for c in row]
        counts = [cell.lines for cell in row if cell.lines] or [1]
        worst = max(cell.error for cell in row)
        lines.append(f"| {network} | {' | '.join(texts)} | {max(counts) / min(counts):.2f} | {worst:.1e} |")
    return "\n".join([*lines, "", *(f"- missed: {miss}" for miss in missed(cells))])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line per file, write the dated table; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.conversion.model_source", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--network", action="append", choices=NETWORKS, help="repeatable; default: all eight")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the dated files go")
    options = parser.parse_args(arguments)
    cells = []
    for network in options.network or NETWORKS:
        module, images = network_and_images(network)
        for exporter in EXPORTERS:
            model = exported_by(exporter, module, images)
            for optimiser, optimise in OPTIMISERS.items():
                cells.append(measure(network, exporter, optimiser, optimise(model), images))
                print(cells[-1], flush=True)  # noqa: T201
    path = _write(options.results, cells)
    print("\n".join([table(cells), str(path)]))  # noqa: T201
    return 1 if missed(cells) else 0


def _write(folder: Path, cells: Sequence[Cell]) -> Path:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    head = {"date": now, "command": "python -m rtool.benchmarks.conversion.model_source"}
    report = {**head, "machine": describe_machine(), "missed": missed(cells), "cells": [asdict(cell) for cell in cells]}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now[:10]}-model-source.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(f"# model.py, {now[:10]}\n\n{table(cells)}\n", encoding="utf-8")
    return path.with_suffix(".md")


if __name__ == "__main__":
    sys.exit(main())
