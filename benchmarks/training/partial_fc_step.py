"""The class layer at 100 thousand to 29 million identities: PartialFC compared with a dense one.

PartialFC: "Partial FC: Training 10 Million Identities on a Single Machine", An et al., arXiv:2010.05222. Each size runs
a few steps in a process of its own, so that its peak memory can be read. The figures of sizes that do not fit into the
machine are computed from the largest size that fits, and marked as computed. The memory per GPU on eight GPUs is
computed as well.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...finetune.config.config import OptimizerConfig
from ...finetune.losses.margin_losses import cosine_logits, margin_logits
from ...finetune.losses.partial_fc import PartialFC

__all__ = ["measure_partial_fc", "measure_partial_fc_on_gpu", "run"]

_DIMENSION, _BATCH, _STEPS = 512, 128, 3
_SIZES = (100_000, 1_000_000, 2_000_000)
_RATE = 0.1


def measure_partial_fc() -> dict[str, Any]:
    """CPU seconds per step, peak memory in GB and rows touched per number of identities; a table for eight GPUs."""
    dense: list[dict[str, Any]] = []
    for classes in _SIZES:
        needed = dense[-1]["peak_gigabytes"] * classes / dense[-1]["identities"] if dense else 0.0
        fits = needed < 0.9 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        dense.append(_measure("dense", classes, 1.0) if fits else scaled_by_rows(dense[-1], classes))
    sampled = [_measure("partial_fc", classes, _RATE) for classes in _SIZES]
    return {
        "embedding": _DIMENSION,
        "batch": _BATCH,
        "measured": [*dense, *sampled],
        "computed_on_8_gpus": [row for classes in (10_000_000, 29_000_000) for row in memory_on_gpus(classes)],
    }


def measure_partial_fc_on_gpu(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Milliseconds per step and peak memory in GB on one GPU: sampled at every size, dense where it fits."""
    total = torch.cuda.get_device_properties(0).total_memory / 1e9
    rows = []
    for classes in sizes:
        dense = 3 * 4 * _DIMENSION * classes / 1e9 + 6 * 4 * _BATCH * classes / 1e9  # with six copies of the logits
        if dense < 0.9 * total:
            rows.append(_step_on_gpu("dense", classes, 1.0))
        rows.append(_step_on_gpu("partial_fc", classes, _RATE))
    return rows


def _step_on_gpu(kind: str, classes: int, rate: float, steps: int = 10) -> dict[str, Any]:
    device = torch.device("cuda")
    torch.manual_seed(0)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    embeddings, labels = torch.randn(_BATCH, _DIMENSION, device=device), torch.randint(0, classes, (_BATCH,)).to(device)
    step, rows = _dense(classes, device) if kind == "dense" else _partial(classes, rate, device)
    times = []
    for turn in range(steps + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        step(embeddings.clone().requires_grad_(), labels)
        end.record()
        torch.cuda.synchronize()
        if turn >= 2:
            times.append(start.elapsed_time(end))
    return {
        "kind": kind,
        "identities": classes,
        "rate": rate,
        "rows_touched": rows(),
        "milliseconds_per_step": round(median(times), 2),
        "samples": [round(value, 3) for value in times],
        "peak_gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }


def scaled_by_rows(row: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The figures of a dense layer of `classes` computed from a measured one: all are proportional to the rows."""
    factor = classes / row["identities"]
    return {
        **row,
        "identities": classes,
        "rows_touched": classes,
        "processor_seconds_per_step": round(row["processor_seconds_per_step"] * factor, 1),
        "peak_gigabytes": round(row["peak_gigabytes"] * factor, 1),
        "computed": f"from {row['identities']} identities by rows; it does not fit into this machine's memory",
    }


def memory_on_gpus(classes: int, gpus: int = 8, batch: int = 128) -> list[dict[str, Any]]:
    """Gigabytes per GPU of the class layer, dense and row-sparse: weights, momentum, gradient, logits with gradient.

    `batch` is images per GPU. arcface_torch v2 samples the logits and keeps a dense gradient; a plain dense layer also
    has all logits.
    """
    rows, images = classes / gpus, gpus * batch
    matrix = 4 * _DIMENSION * rows / 1e9
    logits = 2 * 4 * images * rows / 1e9
    kinds = (
        ("dense, all logits", matrix, 1.0),
        ("arcface_torch v2, rate 0.1", matrix, _RATE),
        ("row-sparse, rate 0.1", matrix * _RATE, _RATE),
    )
    return [
        {
            "identities": classes,
            "kind": kind,
            "weights": round(matrix, 2),
            "momentum": round(matrix, 2),
            "gradient": round(gradient, 2),
            "logits": round(logits * share, 2),
            "gigabytes_per_gpu": round(2 * matrix + gradient + logits * share, 2),
        }
        for kind, gradient, share in kinds
    ]


def _measure(kind: str, classes: int, rate: float) -> dict[str, Any]:
    program = f"from rtool.benchmarks.training.partial_fc_step import run; run({kind!r}, {classes}, {rate})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def run(kind: str, classes: int, rate: float) -> None:
    """Print step time, peak memory and rows touched as one JSON object. `kind`: dense or partial_fc."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before, cpu = _peak_bytes(), torch.device("cpu")
    embeddings, labels = torch.randn(_BATCH, _DIMENSION), torch.randint(0, classes, (_BATCH,))
    step, rows = _dense(classes, cpu) if kind == "dense" else _partial(classes, rate, cpu)
    times = []
    for _ in range(_STEPS):
        started = time.process_time()
        step(embeddings.clone().requires_grad_(), labels)
        times.append(time.process_time() - started)
    print(  # noqa: T201
        json.dumps(
            {
                "kind": kind,
                "identities": classes,
                "rate": rate,
                "rows_touched": rows(),
                "processor_seconds_per_step": round(median(times), 3),
                "peak_gigabytes": round((_peak_bytes() - before) / 1e9, 2),
            }
        )
    )


def _dense(classes: int, device: torch.device) -> tuple[Callable[[Tensor, Tensor], None], Callable[[], int]]:
    """A parameter, autograd and torch's SGD."""
    weight = nn.Parameter(torch.empty(classes, _DIMENSION, device=device).normal_(0, 0.01))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=5e-4)

    def step(embeddings: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(margin_logits(cosine_logits(embeddings, weight), labels), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, lambda: classes


def _partial(
    classes: int, rate: float, device: torch.device
) -> tuple[Callable[[Tensor, Tensor], None], Callable[[], int]]:
    rule = OptimizerConfig(kind="sgd", momentum=0.9, weight_decay=5e-4)
    head = PartialFC(_DIMENSION, classes, rate=rate, optimizer=rule, device=device)
    touched = [0]

    def step(embeddings: Tensor, labels: Tensor) -> None:
        head(embeddings, labels).backward()
        touched[0] = classes if head.rows_used is None else len(head.rows_used)
        head.step(0.1)

    return step, lambda: touched[0]


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
