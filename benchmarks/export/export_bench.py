"""The export, measured: write-back, restoring and folding BatchNorm, latency and fp16 on eight networks.

    python -m rtool.benchmarks.export.export_bench                       all of them
    python -m rtool.benchmarks.export.export_bench osnet_x0_25 resnet50  some of them
    python -m rtool.benchmarks.export.export_bench --part graphs         what is not timed; stores the files
    python -m rtool.benchmarks.export.export_bench --part latency        times the stored files

Every network gets weights and statistics of some training, is exported like public models (TorchScript, BatchNorm
fused), converted, trained for 50 steps with restored BatchNorms, and written back. Latencies are compared with that of
the source and with those of the unfused export after onnxslim and onnxsim. Rows are added to a dated file in
`results/`, one network at a time; exit code 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...converters.batchnorm.restore import restore_batchnorm
from ...converters.lowering.conversion import onnx_to_torch
from ...converters.passes.simplification import Simplifier, simplify
from ...converters.precision.half_search import search_half
from ...converters.runtime.parity import measure_parity
from ...converters.runtime.probes.probing import probe_pixels
from ...converters.runtime.runners import OnnxRunner, TorchRunner
from ...converters.weights.writing_back import write_back
from ...converters.zoo.registry import ZOO, architecture_preprocessing, build_architecture
from ...errors import GateError, InputError
from ..machine import describe_machine
from ..places import RESULTS
from .export_latency import measure_latencies

__all__ = ["BOUNDS", "NETWORKS", "GraphRow", "main", "measure_graphs"]

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
_FILES = Path("runs") / "bench-export"
_SIMPLIFIERS: tuple[Simplifier, ...] = ("onnxslim", "onnxsim")
_OPSET = 17
_SEED = 0
_BATCHES = 12
"""Images per batch for training and calibration; they are smooth and random."""
_BATCH = {"iresnet100": 2}
"""Images per step, where it is not 4."""
_FIRST_STEPS, _FIRST_RATE = {"osnet_x0_25": 240}, 0.03
"""Training steps before the export, 24 where not stated; the smallest network needs more. Random weights map all images
to nearly the same embedding, whose differences are smaller than the rounding; trained networks do not."""
_STEPS, _RATE = 50, 1e-3
"""Training steps between restoring and folding: enough to change every weight and statistic."""


@dataclass(frozen=True)
class GraphRow:
    """The measurements of one network that are not timed; errors are relative, as in `parity`."""

    network: str
    batch: int
    identical_round_trip: bool
    restored: int
    restore_error: float
    steps: int
    fold_error: float
    rounding_of_module: float
    """Error of the unfolded module in float32 against itself in float64: the floor of any comparison."""
    rounding_of_folded: float
    """Error of the folded module in float32 against the unfolded one in float64."""
    export_error: float
    nodes_source: int
    nodes_exported: int
    fp16_size: float
    fp16_cosine: float
    fp16_casts: int
    fp16_kept: int
    fp16_trials: int
    embedding_spread: float
    """Mean cosine between the embeddings of different images; 1 would mean that the network ignores its input."""
    seconds: dict[str, float]


BOUNDS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "untrained round trip is bit-identical": lambda row: row["identical_round_trip"],
    "restore changes eval outputs by <= 1e-6": lambda row: row["restore_error"] <= 1e-6,
    "fold after training changes outputs by <= 1e-5": lambda row: row["fold_error"] <= 1e-5,
    "exported graph has the source's node count": lambda row: row["nodes_exported"] == row["nodes_source"],
    "fp16 file <= 0.52": lambda row: row["fp16_size"] <= 0.52,
    "fp16 cosine >= 0.9999": lambda row: row["fp16_cosine"] >= 0.9999,
    "two Casts where nothing is blocked": lambda row: row["fp16_kept"] > 0 or row["fp16_casts"] == 2,
    "latency <= 1.02 of the source's": lambda row: row["latency"]["ratios"]["exported"]["source"][1] <= 1.02,
    "no slower than onnxslim's": lambda row: row["latency"]["ratios"]["source"]["onnxslim"][1] <= 1.0,
    "no slower than onnxsim's": lambda row: row["latency"]["ratios"]["source"]["onnxsim"][1] <= 1.0,
}
"""The bounds; a ratio of latencies is missed when its whole interval is above the bound.

Equal graphs with different weights differ by up to one per cent in latency, because the activations determine the
branches of PReLU and Relu. Therefore graphs are compared with those of the simplifiers at equal weights, those of the
untrained write-back, which is byte for byte the source. The latency of the trained one is in the file as well.
"""


def measure_graphs(network: str, files: Path) -> GraphRow:
    """Run one network through all steps; the graphs to time are stored in `files`."""
    torch.manual_seed(_SEED)
    seconds: dict[str, float] = {}
    size = architecture_preprocessing(network)
    batch = _BATCH.get(network, 4)
    pool = torch.split(torch.from_numpy(size.normalise(probe_pixels(size, _BATCHES * batch, seed=_SEED))), batch)
    images = pool[0]
    with _timed(seconds, "train before export"):
        original = _as_trained(network, pool)
    source, unfused = _exported(original, images, fused=True), _exported(original, images, fused=False)
    with _timed(seconds, "convert"):
        module = onnx_to_torch(source)
    with _timed(seconds, "write back"):
        identical = write_back(module, source).SerializeToString() == source.SerializeToString()
    before = _outputs(module, images)
    with _timed(seconds, "restore"):
        restored = restore_batchnorm(module, pool)
    restore_error = measure_parity([before], [_outputs(module, images)]).max_rel
    with _timed(seconds, "train"):
        _train(module, _STEPS, _RATE, pool)
    trained = _outputs(module, images)
    exported = write_back(module, source)
    folded = _outputs(onnx_to_torch(exported), images)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(images.double()).numpy()
    with _timed(seconds, "fp16"):
        search = search_half(exported, [images.numpy()], reference=[trained])
        OnnxRunner(search.half.model)  # it loads
    _save(files / network, {"source": source, "exported": exported}, unfused, images[:1].numpy())
    return GraphRow(
        network=network,
        batch=batch,
        identical_round_trip=identical,
        restored=len(restored.restored),
        restore_error=restore_error,
        steps=_STEPS,
        fold_error=measure_parity([trained], [folded]).max_rel,
        rounding_of_module=measure_parity([exact], [trained]).max_rel,
        rounding_of_folded=measure_parity([exact], [folded]).max_rel,
        export_error=measure_parity([trained], OnnxRunner(exported).run(images.numpy())).max_rel,
        nodes_source=len(source.graph.node),
        nodes_exported=len(exported.graph.node),
        fp16_size=search.half.model.ByteSize() / exported.ByteSize(),
        fp16_cosine=search.parity.min_cosine,
        fp16_casts=search.half.casts,
        fp16_kept=len(search.float32_nodes),
        fp16_trials=search.trials,
        embedding_spread=_mean_cosine(trained),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _as_trained(network: str, pool: Sequence[Tensor]) -> nn.Module:
    """Weights that all differ (exporters merge equal ones), some training, and BatchNorm statistics that fit them."""
    module = build_architecture(network)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * parameter.std(correction=0).clamp_min(0.1) * torch.randn_like(parameter))
    _train(module, _FIRST_STEPS.get(network, 24), _FIRST_RATE, pool)
    batchnorms = [each for each in module.modules() if isinstance(each, _BatchNorm)]
    momenta = [each.momentum for each in batchnorms]
    for each in batchnorms:
        each.reset_running_stats()
        each.momentum = None  # the average over all batches
    with torch.no_grad():
        for images in pool:
            module.train()(images)
    for each, momentum in zip(batchnorms, momenta, strict=True):
        each.momentum = momentum
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


def _train(module: nn.Module, steps: int, rate: float, pool: Sequence[Tensor]) -> None:
    """Plain training steps that move the embedding of every image to a random target of its own."""
    module.train()
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=rate, momentum=0.9)
    drawn = torch.randn(len(pool), len(pool[0]), 512, generator=torch.Generator().manual_seed(_SEED))
    targets = torch.nn.functional.normalize(drawn, dim=2)
    for step in range(steps):
        embeddings = torch.nn.functional.normalize(module(pool[step % len(pool)]))
        loss = (1 - (embeddings * targets[step % len(pool)]).sum(dim=1)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    module.eval()


def _mean_cosine(embeddings: NDArray[np.float32]) -> float:
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return float((units @ units.T)[np.triu_indices(len(units), 1)].mean())


def _save(
    folder: Path, models: Mapping[str, onnx.ModelProto], unfused: onnx.ModelProto, image: NDArray[np.float32]
) -> None:
    """The graphs whose latencies are compared, and the image on which they are measured."""
    folder.mkdir(parents=True, exist_ok=True)
    simplified = {name: simplify(unfused, name, inputs=[image]) for name in _SIMPLIFIERS}
    failed = [f"{name}: {result.rolled_back}" for name, result in simplified.items() if result.rolled_back]
    if failed:
        raise GateError(
            f"{folder.name}: a simplifier failed, so there is no graph to compare with ({'; '.join(failed)})"
        )
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    for method, result in simplified.items():
        onnx.save(result.model, folder / f"{method}.onnx")
    np.save(folder / "image.npy", image)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line per network, add it to the results file; returns 1 when a bound is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.export.export_bench", description=__doc__.split("\n")[0]
    )
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK", help="default: all eight")
    parser.add_argument("--part", choices=("graphs", "latency"), help="default: both")
    parser.add_argument("--files", type=Path, default=_FILES, help="folder of the graphs to time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated file")
    options = parser.parse_args(arguments)
    unknown = set(options.networks) - set(ZOO)
    if unknown:
        parser.error(f"unknown network {sorted(unknown)[0]!r}")
    torch.set_num_threads(1)
    path = options.results / f"{datetime.now(UTC):%Y-%m-%d}-export.json"
    for network in options.networks:
        if options.part != "latency":
            _merge(path, network, asdict(measure_graphs(network, options.files)))
        if options.part != "graphs":
            _merge(path, network, {"latency": _latency(options.files / network)})
        print(_line(_rows(path)[network]), flush=True)  # noqa: T201
    rows = _rows(path)
    missed = _missed([rows[network] for network in options.networks])
    print("\n".join([*(f"MISSED {entry}" for entry in missed), str(path)]))  # noqa: T201
    return 1 if missed else 0


def _latency(folder: Path) -> dict[str, Any]:
    image_file = folder / "image.npy"
    if not image_file.exists():
        raise InputError(f"{folder}: no graphs to time; run this network with --part graphs first")
    models = {name: folder / f"{name}.onnx" for name in ("exported", "source", *_SIMPLIFIERS)}
    return asdict(measure_latencies(models, np.load(image_file), ("exported", "source")))


def _missed(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The missed bounds, without those whose part has not been measured."""
    missed = []
    for row in rows:
        for name, holds in BOUNDS.items():
            try:
                held = holds(row)
            except KeyError:
                continue
            if not held:
                missed.append(f"{row['network']}: {name}")
    return missed


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    return {row["network"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def _merge(path: Path, network: str, figures: Mapping[str, Any]) -> None:
    """Write `figures` into the network's row of the file, so that a stopped run loses nothing."""
    rows = _rows(path)
    rows[network] = {"network": network, **rows.get(network, {}), **figures}
    ordered = [rows[name] for name in (*NETWORKS, *sorted(set(rows) - set(NETWORKS))) if name in rows]
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "missed": _missed(ordered),
        "rows": ordered,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _line(row: Mapping[str, Any]) -> str:
    parts = [f"{row['network']:14}"]
    if "fold_error" in row:
        parts.append(
            f"identical {row['identical_round_trip']}  restore {row['restore_error']:.1e}  "
            f"fold {row['fold_error']:.1e}  nodes {row['nodes_source']}->{row['nodes_exported']}  "
            f"fp16 size {row['fp16_size']:.3f} cosine {row['fp16_cosine']:.7f} casts {row['fp16_casts']}"
        )
    if "latency" in row:
        ratios = row["latency"]["ratios"]["exported"]
        parts += [f"{name} {mid:.3f} ({low:.3f}-{high:.3f})" for name, (mid, low, high) in ratios.items()]
    return "  ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
