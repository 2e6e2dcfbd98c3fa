"""Measurements that need a GPU: `python -m rtool.benchmarks.training.gpu_bench [NAME ...]`.

`step`: the trainer's step with a converted network, compared with a hand-written loop over the original, in float32,
bfloat16 and float16. `partial_fc`: step time and peak memory of the class layer, dense and sampled. `half`: the
difference of an exported float16 model on a GPU from float32, compared with the prediction of `half_emulation`, which
needs no GPU. `latency`: ONNX Runtime on the GPU, float32 and float16. Times are measured in turns, with the device's
queue empty before and after. Results go to a dated file that names the GPU; exit code 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch

from ...converters import export, onnx_to_torch
from ...converters.precision.half_search import search_half
from ...converters.records.preprocessing import ARCFACE, IMAGENET
from ...converters.runtime.half_emulation import emulate_half
from ...converters.runtime.parity import measure_parity
from ...converters.runtime.probes.probing import probe_pixels
from ...converters.runtime.runners import OnnxRunner, run_in_batches
from ..machine import describe_machine
from ..places import DEMO_MODEL, RESULTS
from ..timing import latency
from .partial_fc_step import measure_partial_fc_on_gpu
from .training_steps import build_as_trained, build_step_pair

__all__ = ["main"]

_NETWORKS = {"osnet_x1_0": (IMAGENET, 64), "iresnet50": (ARCFACE, 128)}
"""Preprocessing and images per step."""
_LARGEST_RATIO = 1.05
_IDENTITIES = (100_000, 1_000_000, 2_000_000, 4_000_000)
_WARM_UP, _TURNS = 5, 30
_SMALLEST_COSINE = 0.9999


def measure_steps() -> dict[str, Any]:
    """Milliseconds per training step by network and precision, for both loops in turns."""
    rows = {}
    for name, (size, batch) in _NETWORKS.items():
        for precision in ("fp32", "bf16", "fp16"):
            pair = build_step_pair(name, size, batch, device="cuda", precision=precision)
            times = _in_turns({"trainer": pair.trainer, "plain": pair.plain})
            ratio = median(a / b for a, b in zip(times["trainer"], times["plain"], strict=True))
            rows[f"{name} {precision}"] = {
                "batch": batch,
                "restored_batchnorms": pair.restored,
                "ratio": round(ratio, 4),
                "images_per_second": round(1000 * batch / median(times["trainer"]), 1),
                "milliseconds": times,
            }
            torch.cuda.empty_cache()
    return rows


def _in_turns(steps: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Milliseconds from the call until the device has finished."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-_WARM_UP, _TURNS):
        for name, step in steps.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            step()
            torch.cuda.synchronize()
            if turn >= 0:
                times[name].append(round(1e3 * (time.perf_counter() - started), 3))
    return times


def measure_half() -> dict[str, Any]:
    """The demo's model in float16: computed on the GPU by torch, and predicted by `half_emulation`."""
    model = onnx.load(DEMO_MODEL)
    size = replace(IMAGENET, height=128, width=64)
    images = size.normalise(probe_pixels(size, 64, seed=0))
    expected = run_in_batches(OnnxRunner(model), images, 16)
    half = search_half(model, [images[:16]], keep_io_types=True).half.model
    predicted = measure_parity(expected, run_in_batches(OnnxRunner(emulate_half(half)), images, 16))
    module = onnx_to_torch(model).eval().cuda().half()
    with torch.inference_mode():
        outputs = [module(torch.from_numpy(part).cuda().half()).float().cpu().numpy() for part in np.split(images, 4)]
    measured = measure_parity(expected, [np.concatenate(outputs)])
    return {
        "network": "demo model",
        "images": len(images),
        "predicted_min_cosine": predicted.min_cosine,
        "measured_min_cosine": measured.min_cosine,
        "predicted_max_rel": predicted.max_rel,
        "measured_max_rel": measured.max_rel,
    }


def measure_latency() -> dict[str, Any]:
    """ONNX Runtime on the GPU, transfers included: float32 and the exported float16."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, batch) in _NETWORKS.items():
            single, half = Path(folder) / f"{name}.onnx", Path(folder) / f"{name}_fp16.onnx"
            images = size.normalise(probe_pixels(size, 16, seed=0))
            export(build_as_trained(name, size, torch.from_numpy(images)), single, inputs=images, tolerance=1e-4)
            # The weights are random, so the gate is loose; `half` measures the error of fp16.
            export(single, half, fp16=True, tolerance=1e-4, min_cosine=0.99)
            report = latency([single, half], batch=batch, device="cuda", rounds=_TURNS)
            rows[name] = {
                "batch": batch,
                **{f"{row.model} p50 ms": round(row.p50, 2) for row in report.rows},
                "fp16 to fp32": round(report.rows[1].ratio, 3),
                "fp16 images_per_second": round(report.rows[1].samples_per_second, 1),
            }
    return rows


def _missed(result: dict[str, Any]) -> list[str]:
    missed = [
        f"{name}: ratio {row['ratio']} > {_LARGEST_RATIO}"
        for name, row in result.get("step", {}).items()
        if row["ratio"] > _LARGEST_RATIO
    ]
    half = result.get("half")
    if half and half["measured_min_cosine"] < _SMALLEST_COSINE:
        missed.append(f"half: cosine {half['measured_min_cosine']:.6f} < {_SMALLEST_COSINE}")
    return missed


_MEASUREMENTS: dict[str, Callable[[], Any]] = {
    "half": measure_half,
    "step": measure_steps,
    "latency": measure_latency,
    "partial_fc": lambda: measure_partial_fc_on_gpu(_IDENTITIES),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the dated file; returns 1 when a bound is missed, 2 without a GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.training.gpu_bench", description=__doc__.split("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(_MEASUREMENTS)}; default: all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated file")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(_MEASUREMENTS)
    if unknown:
        parser.error(f"no measurement {sorted(unknown)[0]}; known: {', '.join(_MEASUREMENTS)}")
    if not torch.cuda.is_available():
        parser.error("torch finds no CUDA device on this machine")
    card = torch.cuda.get_device_name(0).lower().replace(" ", "-")
    path = options.results / f"{time.strftime('%Y-%m-%d')}-{card}.json"
    result: dict[str, Any] = {}
    for name in options.names or _MEASUREMENTS:
        result[name] = _MEASUREMENTS[name]()
        report = {"date": time.strftime("%Y-%m-%d"), "machine": describe_machine(), "missed": _missed(result)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**report, "result": result}, indent=2) + "\n", encoding="utf-8")
    missed = _missed(result)
    print("\n".join([*(f"MISSED {entry}" for entry in missed), str(path)]))  # noqa: T201
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
