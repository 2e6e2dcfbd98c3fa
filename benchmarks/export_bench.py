"""The way back, measured: write-back, restore, fold, latency and fp16 on eight networks.

    python -m rtool.benchmarks.export_bench                       all of them (about ten minutes on 2 cores)
    python -m rtool.benchmarks.export_bench osnet_x0_25 resnet50  some of them

Every network gets random weights and statistics, is exported the way the public ones are (TorchScript, BatchNorm
fused), converted, given its BatchNorms back, trained for some steps, and written back. Latencies are taken in
turns in one process, one thread, against the source and against what onnxslim and onnxsim make of the unfused
export. Results go to `results/`, dated; exit code 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ..converters.conversion import onnx_to_torch
from ..converters.half import to_half
from ..converters.parity import measure_parity
from ..converters.probing import probe_pixels
from ..converters.restore import restore_batchnorm
from ..converters.runners import OnnxRunner, TorchRunner
from ..converters.simplification import Simplifier, simplify
from ..converters.writing_back import write_back
from ..converters.zoo.registry import ZOO, architecture_preprocessing, build_architecture
from .machine import describe_machine

__all__ = ["BOUNDS", "NETWORKS", "Row", "main", "measure"]

NETWORKS = (
    "osnet_x0_25",
    "osnet_x1_0",
    "mobilefacenet",
    "iresnet18",
    "iresnet50",
    "iresnet100",
    "resnet50",
    "vit_tiny",
)
_RESULTS = Path(__file__).parent / "results"
_OPSET = 17
_SEED = 0
_SESSIONS = 4
_ROUNDS = 20
_IMAGES = 64
"""Calibrated and trained on; smooth random images."""
_WARM_UP = 3


@dataclass(frozen=True)
class Row:
    """One network. Ratios of latencies are medians of paired rounds, with their 95 % bootstrap interval."""

    network: str
    identical_round_trip: bool
    restored: int
    restore_error: float
    steps: int
    fold_error: float
    export_error: float
    nodes_source: int
    nodes_exported: int
    latency_to_source: tuple[float, float, float]
    latency_to_best_simplified: tuple[float, float, float]
    milliseconds: dict[str, float]
    fp16_size: float
    fp16_cosine: float
    fp16_casts: int
    seconds: dict[str, float]


BOUNDS: dict[str, Callable[[Row], bool]] = {
    "untrained round trip is bit-identical": lambda row: row.identical_round_trip,
    "restore changes eval outputs by <= 1e-6": lambda row: row.restore_error <= 1e-6,
    "fold after training changes outputs by <= 1e-5": lambda row: row.fold_error <= 1e-5,
    "exported graph has the source's node count": lambda row: row.nodes_exported == row.nodes_source,
    "latency <= 1.02 of the source's": lambda row: row.latency_to_source[1] <= 1.02,
    "no slower than the better simplifier": lambda row: row.latency_to_best_simplified[1] <= 1.0,
    "fp16 file <= 0.52": lambda row: row.fp16_size <= 0.52,
    "fp16 cosine >= 0.9999": lambda row: row.fp16_cosine >= 0.9999,
    "two Casts": lambda row: row.fp16_casts == 2,
}
"""What must hold; a ratio is missed only when its whole interval lies above the bound."""


def measure(network: str, steps: int = 50, batch: int = 8) -> Row:
    """Take one network through the whole way."""
    torch.manual_seed(_SEED)
    seconds: dict[str, float] = {}
    size = architecture_preprocessing(network)
    pool = torch.split(torch.from_numpy(size.normalise(probe_pixels(size, _IMAGES, seed=_SEED))), batch)
    images = pool[0]
    original = _randomised(network, pool)
    source, unfused = _exported(original, images, fused=True), _exported(original, images, fused=False)
    start = time.perf_counter()
    module = onnx_to_torch(source)
    seconds["convert"] = time.perf_counter() - start
    start = time.perf_counter()
    identical = write_back(module, source).SerializeToString() == source.SerializeToString()
    seconds["write back"] = time.perf_counter() - start
    before = _outputs(module, images)
    start = time.perf_counter()
    restored = restore_batchnorm(module, pool)
    seconds["restore"] = time.perf_counter() - start
    restore_error = measure_parity([before], [_outputs(module, images)]).max_rel
    start = time.perf_counter()
    _train(module, steps, pool)
    seconds["train"] = time.perf_counter() - start
    trained = _outputs(module, images)
    exported = write_back(module, source)
    folded = _outputs(onnx_to_torch(exported), images)
    runner = OnnxRunner(exported)
    start = time.perf_counter()
    half = to_half(exported)
    seconds["fp16"] = time.perf_counter() - start
    narrow = OnnxRunner(half.model).run(images.numpy())[0]
    to_source, to_best, milliseconds = _latencies(source, exported, unfused, images[:1].numpy())
    return Row(
        network=network,
        identical_round_trip=identical,
        restored=len(restored.restored),
        restore_error=restore_error,
        steps=steps,
        fold_error=measure_parity([trained], [folded]).max_rel,
        export_error=measure_parity([trained], runner.run(images.numpy())).max_rel,
        nodes_source=len(source.graph.node),
        nodes_exported=len(exported.graph.node),
        latency_to_source=to_source,
        latency_to_best_simplified=to_best,
        milliseconds=milliseconds,
        fp16_size=half.model.ByteSize() / exported.ByteSize(),
        fp16_cosine=measure_parity([trained], [narrow]).min_cosine,
        fp16_casts=half.casts,
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def _randomised(network: str, pool: Sequence[Tensor]) -> nn.Module:
    """Weights no two of which are equal (exporters merge equal ones), and statistics that fit them."""
    module = build_architecture(network)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * parameter.std(correction=0).clamp_min(0.1) * torch.randn_like(parameter))
        for images in pool:
            module.train()(images)
    return module.eval()


def _exported(module: nn.Module, images: Tensor, *, fused: bool) -> onnx.ModelProto:
    file = io.BytesIO()
    mode = torch.onnx.TrainingMode.EVAL if fused else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (images[:2],),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=_OPSET,
            training=mode,
            do_constant_folding=fused,
            input_names=["images"],
            output_names=["embedding"],
            dynamic_axes={"images": {0: "batch"}, "embedding": {0: "batch"}},
        )
    return onnx.load_from_string(file.getvalue())


def _outputs(module: nn.Module, images: Tensor) -> NDArray[np.float32]:
    return TorchRunner(module).run(images.numpy())[0]


def _train(module: fx.GraphModule, steps: int, pool: Sequence[Tensor]) -> None:
    """Plain steps that move every weight and statistic."""
    module.train()
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    targets = torch.nn.functional.normalize(torch.randn(len(pool), len(pool[0]), 512), dim=2)
    for step in range(steps):
        embeddings = torch.nn.functional.normalize(module(pool[step % len(pool)]))
        loss = (1 - (embeddings * targets[step % len(pool)]).sum(dim=1)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    module.eval()


def _latencies(
    source: onnx.ModelProto, exported: onnx.ModelProto, unfused: onnx.ModelProto, image: NDArray[np.float32]
) -> tuple[tuple[float, float, float], tuple[float, float, float], dict[str, float]]:
    """(to the source, to the better simplifier, milliseconds of each)."""
    methods: tuple[Simplifier, ...] = ("onnxslim", "onnxsim")
    models: dict[str, onnx.ModelProto] = {"exported": exported, "source": source}
    models.update({method: simplify(unfused, method, inputs=[image]).model for method in methods})
    samples = _processor_times(models, image)
    best = min(methods, key=lambda method: float(np.median(samples[method])))
    medians = {name: round(float(np.median(times)), 3) for name, times in samples.items()}
    return _ratio(samples["exported"], samples["source"]), _ratio(samples["exported"], samples[best]), medians


def _processor_times(
    models: Mapping[str, onnx.ModelProto], image: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of processor time of each model, call by call: with one thread, the latency on a quiet machine.

    The models take turns in rotating order, in several sets of sessions that are made in rotating order too:
    where a session's memory lies is worth some per cent.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    names = list(models)
    for session in range(_SESSIONS):
        order = names[session % len(names) :] + names[: session % len(names)]
        runners = {name: OnnxRunner(models[name], threads=1) for name in order}
        for turn in range(_ROUNDS + _WARM_UP):
            for place in range(len(order)):
                name = order[(turn + place) % len(order)]
                start = time.thread_time_ns()
                runners[name].run(image)
                if turn >= _WARM_UP:
                    times[name].append((time.thread_time_ns() - start) / 1e6)
    return {name: np.array(values) for name, values in times.items()}


def _ratio(times: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float, float]:
    """Median of paired ratios with its 95 % bootstrap interval."""
    ratios = times / reference
    picks = np.random.default_rng(_SEED).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line a network, write the results file; 1 when a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m rtool.benchmarks.export_bench", description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK", help="default: all eight")
    parser.add_argument("--steps", type=int, default=50, help="training steps between restore and fold")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="where the dated file goes")
    options = parser.parse_args(arguments)
    unknown = set(options.networks) - set(ZOO)
    if unknown:
        parser.error(f"unknown network {sorted(unknown)[0]!r}")
    path = options.results / f"{datetime.now(UTC):%Y-%m-%d}-export.json"
    rows: list[Row] = []
    for network in options.networks:
        rows.append(measure(network, options.steps, options.batch))
        print(_line(rows[-1]), flush=True)  # noqa: T201
        _write(path, rows)
    missed = _missed(rows)
    print("\n".join([*(f"MISSED {entry}" for entry in missed), str(path)]))  # noqa: T201
    return 1 if missed else 0


def _missed(rows: Sequence[Row]) -> list[str]:
    return [f"{row.network}: {name}" for row in rows for name, holds in BOUNDS.items() if not holds(row)]


def _write(path: Path, rows: Sequence[Row]) -> None:
    """What has been measured so far; a long run that is stopped keeps its rows."""
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "missed": _missed(rows),
        "rows": [asdict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _line(row: Row) -> str:
    return (
        f"{row.network:14} identical {row.identical_round_trip}  restore {row.restore_error:.1e}  "
        f"fold {row.fold_error:.1e}  nodes {row.nodes_source}->{row.nodes_exported}  "
        f"latency/source {row.latency_to_source[0]:.3f}  latency/best {row.latency_to_best_simplified[0]:.3f}  "
        f"fp16 size {row.fp16_size:.3f} cosine {row.fp16_cosine:.7f} casts {row.fp16_casts}"
    )


if __name__ == "__main__":
    sys.exit(main())
