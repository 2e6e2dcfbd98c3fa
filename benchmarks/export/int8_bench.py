"""int8, measured: size, agreement on images that were not used for calibration, and latency compared with float32.

    python -m rtool.benchmarks.export.int8_bench                       the demo's model, all three calibration methods
    # networks that `export_bench` left in runs/bench-export
    python -m rtool.benchmarks.export.int8_bench osnet_x1_0 iresnet50

The demo's model is the trained OSNet x0.25 of `examples/models`, calibrated on eight images per person of 64 synthetic
people. Its cosine and mAP are measured on other people. The search requires a cosine of .992 on the calibration images,
because the worst of some hundred unseen images is worse than the worst of those. Gate and number of images were
chosen by looking at the measured images (a gate of .99 gave .986 to .988 on them), so `fresh_people` of the dated file
has three more sets, drawn afterwards: percentile reaches .99 on all of them, minmax and entropy do not.
Latency is CPU time on one thread, measured in turns.
Rows are added to a dated file in `results/`; exit code 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ...converters.precision.int8_ranges import CalibrationMethod
from ...converters.precision.int8_search import search_int8
from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.parity import measure_parity
from ...converters.runtime.probes.probing import probe_pixels
from ...converters.runtime.runners import OnnxRunner, run_in_batches
from ...converters.zoo.registry import ZOO, architecture_preprocessing
from ...errors import GateError, InputError
from ...finetune import open_dataset
from ...finetune.data.decoding import Pixels, read_pixels
from ...finetune.embedding.embedders import open_embedder
from ...finetune.evaluation.evaluation import evaluate_pixels
from ...finetune.evaluation.ranks.retrieval import RetrievalResult
from ..machine import describe_machine
from ..places import DEMO_MODEL, RESULTS
from .export_latency import measure_latencies

__all__ = ["main", "measure_demo_model", "measure_network"]

_PEOPLE = "synthetic-people:identities={identities},images={images},seed={seed},cameras=0"
_FILES = Path("runs") / "bench-export"
_BATCH = 16
"""The fixed batch of the demo's model."""
_CALIBRATED, _MEASURED = 64, 16
"""Calibration images for networks other than the demo's."""
_GATE = 0.992
"""Smallest cosine that the search for the demo's model allows on the calibration images."""
_LARGEST, _COSINE, _LATENCY = 0.30, 0.99, 0.7
"""Bounds of size and cosine, and of the latency of `_FAST`, which one of these networks must hold."""
_FAST = ("osnet_x1_0", "iresnet50")


def measure_demo_model(methods: Sequence[CalibrationMethod] = get_args(CalibrationMethod)) -> dict[str, Any]:
    """The demo's model per calibration method: held-out cosine and mAP, and the latency of the first method."""
    model, preprocessing = onnx.load(DEMO_MODEL), open_embedder(DEMO_MODEL).preprocessing
    calibration = preprocessing.normalise(_people(preprocessing, 64, 8, seed=11).values)
    held_out = _people(preprocessing, 30, 12, seed=12)
    images = preprocessing.normalise(held_out.values)
    expected = run_in_batches(OnnxRunner(model), images, 16)
    row: dict[str, Any] = {"network": "demo model", "bytes": _sizes(model), "methods": {}}
    row["float32_mAP"] = _mean_average_precision(model, preprocessing, held_out)
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            found = search_int8(model, calibration, method=method, min_cosine=_GATE)
            path = Path(folder) / f"{method}.onnx"
            onnx.save(found.model, path)
            parity = measure_parity(expected, run_in_batches(OnnxRunner(found.model), images, 16))
            row["methods"][method] = {
                "size": path.stat().st_size / DEMO_MODEL.stat().st_size,
                "calibrated_cosine": found.parity.min_cosine,
                "held_out_cosine": parity.min_cosine,
                "held_out_mean_cosine": parity.mean_cosine,
                "rank_agreement": parity.rank_agreement,
                "mAP": _mean_average_precision(found.model, preprocessing, held_out),
                "kept_in_float32": list(found.float32_nodes),
                "trials": found.trials,
                "bytes": _sizes(found.model),
            }
        first = Path(folder) / f"{methods[0]}.onnx"
        row["latency"] = asdict(measure_latencies({"int8": first, "float32": DEMO_MODEL}, images[:_BATCH], ("int8",)))
    return row


def measure_network(network: str, files: Path) -> dict[str, Any]:
    """The graph of `network` that the export benchmark stored, calibrated and measured on smooth random images.

    Where the gate is missed, the row states that and has no figures, because no file would be written.

    Raises:
        InputError: there is no such graph.
    """
    source = files / network / "exported.onnx"
    if not source.exists():
        raise InputError(f"{source}: no such file; run export_bench {network} first")
    model, preprocessing = onnx.load(source), architecture_preprocessing(network)
    pixels = probe_pixels(preprocessing, _CALIBRATED + _MEASURED, seed=0)
    images = preprocessing.normalise(pixels)
    try:
        found = search_int8(model, images[:_CALIBRATED])
    except GateError as error:
        return {"network": network, "refused": str(error)}
    expected = run_in_batches(OnnxRunner(model), images[_CALIBRATED:], 8)
    parity = measure_parity(expected, run_in_batches(OnnxRunner(found.model), images[_CALIBRATED:], 8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        onnx.save(found.model, path)
        return {
            "network": network,
            "size": path.stat().st_size / source.stat().st_size,
            "calibrated_cosine": found.parity.min_cosine,
            "held_out_cosine": parity.min_cosine,
            "held_out_mean_cosine": parity.mean_cosine,
            "kept_in_float32": list(found.float32_nodes),
            "trials": found.trials,
            "latency": asdict(measure_latencies({"int8": path, "float32": source}, images[:1], ("int8",))),
        }


def _people(preprocessing: Preprocessing, identities: int, images: int, *, seed: int) -> Pixels:
    dataset = open_dataset(_PEOPLE.format(identities=identities, images=images, seed=seed))
    return read_pixels(dataset, preprocessing.resize)


def _mean_average_precision(model: onnx.ModelProto, preprocessing: Preprocessing, pixels: Pixels) -> float:
    runner = OnnxRunner(model)

    def embed(values: NDArray[np.uint8]) -> NDArray[np.float32]:
        return run_in_batches(runner, preprocessing.normalise(values), 16)[0]

    result = evaluate_pixels(embed, pixels, "retrieval")
    if not isinstance(result, RetrievalResult):
        raise TypeError(f"the retrieval protocol gave a {type(result).__name__}")
    return round(result.mAP, 4)


def _sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of the file by what they contain."""
    numbers = {8: 0, 32: 0, 0: 0}
    headers = 0
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        kind = {"int8": 8, "uint8": 8, "float32": 32}.get(str(array.dtype), 0)
        numbers[kind] += array.nbytes
        headers += tensor.ByteSize() - array.nbytes
    quantisers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    nodes = sum(node.ByteSize() for node in model.graph.node)
    return {
        "file": model.ByteSize(),
        "8-bit numbers": numbers[8],
        "float32 numbers": numbers[32],
        "other numbers": numbers[0],
        "names and shapes of tensors": headers,
        "quantisers": sum(node.ByteSize() for node in quantisers),
        "other nodes": nodes - sum(node.ByteSize() for node in quantisers),
        "types of values": sum(value.ByteSize() for value in model.graph.value_info),
        "metadata": sum(entry.ByteSize() for entry in model.metadata_props),
    }


def _missed(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    missed = []
    for name, row in rows.items():
        if "refused" in row:
            missed.append(f"{name}: refused by the gate")
            continue
        for method, figures in row.get("methods", {"": row}).items():
            label = f"{name} {method}".strip()
            missed += [f"{label}: file <= {_LARGEST}"] if figures["size"] > _LARGEST else []
            missed += [f"{label}: cosine >= {_COSINE}"] if figures["held_out_cosine"] < _COSINE else []
    ratios = [
        rows[name]["latency"]["ratios"]["int8"]["float32"][0] for name in _FAST if "latency" in rows.get(name, {})
    ]
    return [*missed, *([f"latency <= {_LATENCY} for one of {_FAST}"] if ratios and min(ratios) > _LATENCY else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and add to the dated file; returns 1 when a bound is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.export.int8_bench", description=__doc__.split("\n")[0]
    )
    parser.add_argument("networks", nargs="*", default=["demo"], metavar="NETWORK", help="default: the demo's model")
    methods = get_args(CalibrationMethod)
    parser.add_argument(
        "--methods", nargs="+", choices=methods, default=methods, help="calibration methods for the demo's model"
    )
    parser.add_argument("--files", type=Path, default=_FILES, help="folder in which export_bench stored its graphs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated file")
    options = parser.parse_args(arguments)
    unknown = set(options.networks) - set(ZOO) - {"demo"}
    if unknown:
        parser.error(f"unknown network {sorted(unknown)[0]!r}")
    torch.set_num_threads(1)
    path = options.results / f"{datetime.now(UTC):%Y-%m-%d}-int8.json"
    rows: dict[str, dict[str, Any]] = {}
    if path.exists():
        rows = {row["network"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    for network in options.networks:
        row = measure_demo_model(options.methods) if network == "demo" else measure_network(network, options.files)
        rows[row["network"]] = row
        _write(path, rows)
        print(json.dumps(row, indent=2), flush=True)  # noqa: T201
    missed = _missed(rows)
    print("\n".join([*(f"MISSED {entry}" for entry in missed), str(path)]))  # noqa: T201
    return 1 if missed else 0


def _write(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "missed": _missed(rows),
        "rows": list(rows.values()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
