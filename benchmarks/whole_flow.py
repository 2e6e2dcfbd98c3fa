"""`rtool demo`: the whole flow on built-in data, every arrow real and measured.

A fused ONNX file, trained on people seen by one set of cameras, is made trainable, fine-tuned on people seen by
another set, exported and served by a real Triton beside its old self. It calls what a user would call; the
recipe is `examples/demo.yaml`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters import export, inspect, load_model, onnx2torch
from ..converters.preprocessing import Preprocessing
from ..converters.runners import run_in_batches
from ..errors import InputError
from ..finetune import evaluate_pixels, finetune_run, load_config, open_dataset, read_pixels
from ..finetune.data.decoding import Pixels
from ..serving import TritonServer, deploy
from .compare import compare_runners
from .demo_summary import DemoSummary, Hop, Quality
from .load import serving
from .machine import describe_machine
from .rank_figure import Figure, Gallery, rank_figure
from .report import render_report
from .runners import open_runner
from .timing import latency

__all__ = ["DemoResult", "demo"]

_PACKAGE = Path(__file__).resolve().parent.parent
_SOURCE = _PACKAGE / "examples" / "models" / "osnet_x0_25_synthetic.onnx"
_RECIPE = _PACKAGE / "examples" / "demo.yaml"
_BATCH = 16
_EXACT = 1e-5
_HALF_COSINE = 0.9999
_REQUIRED_GAIN = 0.15


@dataclass(frozen=True)
class DemoResult:
    """The summary, and where it and the page were written."""

    summary: DemoSummary
    summary_file: Path
    report: Path


@dataclass
class _Flow:
    """What the steps hand on."""

    folder: Path
    seed: int
    say: Callable[[str], None]
    hops: list[Hop] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    artefacts: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.say(f"{name} ...")
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def hop(self, name: str, reference: str | Path, candidate: str | Path, inputs: Any, **tolerance: float) -> None:
        report = compare_runners(
            open_runner(reference), open_runner(candidate), inputs, described="real crops", **tolerance
        )
        self.hops.append(Hop.from_report(name, report))
