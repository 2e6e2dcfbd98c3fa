"""What int8 costs or saves in time on this machine's CPU, and which operators lose, by ONNX Runtime's own profile.

int8 is not always faster: quantisers around small layers, and layers for which ONNX Runtime has no integer kernel, cost
more than they save. Sessions with one thread take turns; each value is the median over runs of the sum of an operator's
kernels.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.runners import OnnxRunner, batched_inputs

__all__ = ["Int8Latency", "measure_int8_latency"]

_SECONDS = 1.0
"""About how long both models run in all."""
_FEWEST, _MOST = 3, 30
_SLOWER = 1.02
"""Ratio from which int8 counts as slower; timing of equal sessions differs by less."""
_NAMED = 3


@dataclass(frozen=True)
class Int8Latency:
    """Milliseconds per batch with one thread, and per operator."""

    batch: int
    float32: float
    int8: float
    operators: Mapping[str, tuple[float, float]]
    """Operator -> milliseconds in the float32 and in the int8 model; convolutions and products under one name each."""

    def __str__(self) -> str:
        """One line: the ratio, and where int8 is slower the operators that lose."""
        ratio = self.int8 / self.float32
        times = f"{self.int8:.2f} ms per batch of {self.batch} instead of {self.float32:.2f} on one thread of this CPU"
        if ratio <= _SLOWER:
            return f"{ratio:.2f} of float32's time ({times})"
        lost = sorted(self.operators.items(), key=lambda item: item[1][0] - item[1][1])
        shown = [f"{name} {after - before:+.2f} ms" for name, (before, after) in lost[:_NAMED] if after > before]
        return f"slower than float32, {ratio:.2f} of its time ({times}): {', '.join(shown)}"


def measure_int8_latency(
    float32: onnx.ModelProto, int8: onnx.ModelProto, inputs: tuple[NDArray[Any], ...]
) -> Int8Latency:
    """Time both models on one batch of `inputs` [N, ...], the batch of the model, else at most 16 images."""
    fixed = OnnxRunner(float32, threads=1)
    batch = fixed.batch or min(16, len(inputs[0]))
    cut = batched_inputs(fixed, inputs)
    rows = [np.resize(a, (batch, *a.shape[1:])) if has else a for a, has in zip(inputs, cut, strict=True)]
    feed = dict(zip((spec.name for spec in fixed.inputs), rows, strict=True))
    with tempfile.TemporaryDirectory(prefix="rtool-int8-") as folder:
        sessions = [_session(model, Path(folder) / name) for name, model in (("float32", float32), ("int8", int8))]
        seconds: list[list[float]] = [[], []]
        spent, runs = 0.0, 0
        while runs < _FEWEST or (spent < _SECONDS and runs < _MOST):
            for session, times in zip(sessions, seconds, strict=True):
                started = time.perf_counter()
                session.run(None, feed)
                times.append(time.perf_counter() - started)
                spent += times[-1]
            runs += 1
        profiles = [_by_operator(Path(session.end_profiling()), runs) for session in sessions]
    names = sorted(profiles[0].keys() | profiles[1].keys())
    operators = {name: (profiles[0].get(name, 0.0), profiles[1].get(name, 0.0)) for name in names}
    before, after = (1000 * median(times[1:]) for times in seconds)
    return Int8Latency(batch, before, after, operators)


def _session(model: onnx.ModelProto, profile: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(profile)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _by_operator(profile: Path, runs: int) -> dict[str, float]:
    """Milliseconds per run by operator, from a profile of ONNX Runtime."""
    totals: dict[str, float] = defaultdict(float)
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            totals[_family(str(event["args"]["op_name"]))] += event["dur"] / 1000 / runs
    return dict(totals)


def _family(operator: str) -> str:
    """Conv for all kernels of convolutions, MatMul for those of products; others by their own names."""
    if "Conv" in operator:
        return "Conv"
    if operator in ("Gemm", "QGemm", "FusedGemm") or "MatMul" in operator:
        return "MatMul"
    return operator
