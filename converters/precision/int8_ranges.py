"""Measure the range [low, high] in which each activation is quantised, on calibration images.

- `minmax`: all measured values;
- `percentile`: all but one value in 100,000 at each end;
- `entropy`: clips outliers where the histogram loses the least information in 256 levels (Migacz: "8-bit Inference
  with TensorRT", GTC 2017; here with a separate lower end, because the levels are unsigned).

onnxruntime.quantization is not used for this: by default its entropy method compares a histogram of 128 bins with
itself in 128 levels and so clips nothing, with more bins it takes minutes, and its calibrators hold the activations of
all images in memory. This module holds those of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from ..runtime.runners import OnnxRunner

__all__ = ["CalibrationMethod", "cut_by_entropy", "cut_by_percentile", "measure_ranges"]

CalibrationMethod = Literal["minmax", "entropy", "percentile"]
Range = tuple[float, float]
Counts = NDArray[np.int64]

_BATCH = 8
_BINS = 2048
_LEVELS = 256
_CANDIDATES = 128
"""Number of ranges that `entropy` compares."""
_LEFT_OUT = 1e-5
"""Share of the values that `percentile` leaves out at each end."""


def measure_ranges(
    model: onnx.ModelProto, images: NDArray[np.float32], method: CalibrationMethod, names: Sequence[str]
) -> dict[str, Range]:
    """Value name -> (low, high).

    Args:
        model: a float32 model with one input.
        images: preprocessed calibration images float32 [N, ...].
        method: see the module.
        names: names of inputs, outputs or intermediate values of `model`.
    """
    ranges: dict[str, Range] = {}
    for name, array in _activations(model, images, names):
        low, high = ranges.get(name, (np.inf, -np.inf))
        ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
    if method == "minmax":
        return ranges
    counts = {name: np.zeros(_BINS, np.int64) for name in ranges}
    for name, array in _activations(model, images, names):
        counts[name] += np.histogram(array, _BINS, _with_zero(ranges[name]))[0]
    cut = cut_by_entropy if method == "entropy" else cut_by_percentile
    return {name: cut(counts[name], _with_zero(ranges[name])) for name in ranges}


def cut_by_percentile(counts: Counts, seen: Range, left_out: float = _LEFT_OUT) -> Range:
    """The smallest range of whole bins that leaves out at most the share `left_out` at each end.

    `counts` is a histogram with equal bins over the range `seen`.
    """
    edges = np.linspace(*seen, len(counts) + 1)
    below = np.cumsum(counts) / counts.sum()
    first = int(np.searchsorted(below, left_out, side="right"))
    above = np.cumsum(counts[::-1]) / counts.sum()
    last = len(counts) - int(np.searchsorted(above, left_out, side="right"))
    return float(edges[first]), float(edges[max(last, first + 1)])


def cut_by_entropy(counts: Counts, seen: Range, levels: int = _LEVELS) -> Range:
    """The range around zero that loses the least information in `levels` levels: smallest KL divergence D(P || Q).

    Candidates clip both ends at one magnitude. P is the histogram within the range, with the counts beyond it added to
    its end bins. Q spreads the counts of each level evenly over the occupied bins of that level. The bin of zero holds
    half of all values behind a Relu and is represented exactly; it would decide alone, so it counts as its fuller
    neighbour. `counts` is a histogram with equal bins over the range `seen`.
    """
    edges = np.linspace(*seen, len(counts) + 1)
    zero = int(np.clip(np.searchsorted(edges, 0.0, side="right") - 1, 0, len(counts) - 1))
    counts = counts.copy()
    counts[zero] = max(counts[max(zero - 1, 0) : zero].max(initial=0), counts[zero + 1 : zero + 2].max(initial=0))
    width = edges[1] - edges[0]
    largest = max(abs(seen[0]), abs(seen[1]))
    best, smallest = seen, np.inf
    for share in np.linspace(1.0, levels / len(counts), _CANDIDATES):
        first = max(0, round((-largest * share - seen[0]) / width))
        last = min(len(counts), round((largest * share - seen[0]) / width))
        if last - first < levels:
            continue
        divergence = _divergence(counts, first, last, levels)
        if divergence < smallest:
            best, smallest = (float(edges[first]), float(edges[last])), divergence
    return best


def _divergence(counts: Counts, first: int, last: int, levels: int) -> float:
    """D(P || Q) of the bins [first, last), see `cut_by_entropy`."""
    inside = counts[first:last].astype(np.float64)
    p = inside.copy()
    p[0] += counts[:first].sum()
    p[-1] += counts[last:].sum()
    starts = np.linspace(0, len(inside), levels + 1).astype(np.int64)
    occupied = p > 0
    sums, bins = np.add.reduceat(inside, starts[:-1]), np.add.reduceat(occupied, starts[:-1], dtype=np.float64)
    q = np.where(occupied, np.repeat(sums / np.maximum(bins, 1), np.diff(starts)), 0.0)
    if not q.sum():
        return float(np.inf)
    p, q = p / p.sum(), q / q.sum()
    q[occupied] = np.maximum(q[occupied], 1e-12)  # bins that hold only clipped values
    return float((p[occupied] * np.log(p[occupied] / q[occupied])).sum())


def _with_zero(seen: Range) -> Range:
    """The range extended to contain zero, which quantisation must represent exactly, and not empty."""
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    return (low, high) if high > low else (low, low + 1e-6)


def _activations(
    model: onnx.ModelProto, images: NDArray[np.float32], names: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (name, array) for every named value and every batch of `images`."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    entry = next(
        value.name for value in model.graph.input if value.name not in {t.name for t in model.graph.initializer}
    )
    inner = [name for name in names if name != entry]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    runner = OnnxRunner(shown, name="calibration") if inner else None
    fixed = runner.batch if runner is not None else None
    for start in range(0, len(images), fixed or _BATCH):
        batch = images[start : start + (fixed or _BATCH)]
        if entry in names:
            yield entry, batch
        if runner is None:
            continue
        full = np.resize(batch, (fixed, *images.shape[1:])) if fixed else batch
        for spec, array in zip(runner.outputs, runner.run(full), strict=True):
            # Without the rows that only fill a fixed batch: they would count twice.
            yield spec.name, array[: len(batch)] if array.ndim and len(array) == len(full) else array
