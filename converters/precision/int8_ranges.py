"""Between which two numbers each activation is quantised, from what it held for the calibration images.

`minmax` takes all that was seen, `percentile` leaves out one number in 100,000 at each end, and `entropy` cuts where
the histogram loses least to 256 levels (Migacz, "8-bit Inference with TensorRT", GTC 2017; here with a lower end of its
own, as the levels are unsigned). Measured here and not by onnxruntime.quantization: its entropy compares, by default, a
histogram of 128 bins with itself in 128 levels and so cuts nothing, with more bins takes minutes, and its calibrators
hold all activations of all images. One batch is held here.
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
"""Cuts that entropy compares."""
_LEFT_OUT = 1e-5
"""Share of the numbers beyond each end of a percentile's range."""


def measure_ranges(
    model: onnx.ModelProto, images: NDArray[np.float32], method: CalibrationMethod, names: Sequence[str]
) -> dict[str, Range]:
    """The range of each of the values `names` of `model`.

    Args:
        model: float32, with one input.
        images: preprocessed calibration images [N, ...].
        method: see the module.
        names: inputs, outputs or intermediate values.
    """
    ranges: dict[str, Range] = {}
    for name, array in _activations(model, images, names):
        low, high = ranges.get(name, (np.inf, -np.inf))
        ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
    if method == "minmax":
        return ranges
    counts = {name: np.zeros(_BINS, np.int64) for name in ranges}
    for name, array in _activations(model, images, names):
        counts[name] += np.histogram(array, _BINS, _widened(ranges[name]))[0]
    cut = cut_by_entropy if method == "entropy" else cut_by_percentile
    return {name: cut(counts[name], _widened(ranges[name])) for name in ranges}


def cut_by_percentile(counts: Counts, seen: Range, left_out: float = _LEFT_OUT) -> Range:
    """The smallest range of whole bins that leaves out at most the share `left_out` at each end."""
    edges = np.linspace(*seen, len(counts) + 1)
    below = np.cumsum(counts) / counts.sum()
    first = int(np.searchsorted(below, left_out, side="right"))
    above = np.cumsum(counts[::-1]) / counts.sum()
    last = len(counts) - int(np.searchsorted(above, left_out, side="right"))
    return float(edges[first]), float(edges[max(last, first + 1)])


def cut_by_entropy(counts: Counts, seen: Range, levels: int = _LEVELS) -> Range:
    """The range around zero whose `levels` tell most of the histogram: smallest Kullback-Leibler divergence.

    Candidates cut both ends at one magnitude; P is the histogram within the cut, what lies beyond added to its ends;
    Q is P's inside, evenly spread over the occupied bins of each level. The bin of zero, which behind a Relu holds half
    of all numbers and is exact in any case, counts as its fuller neighbour, or it alone would decide.
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
    """KL(P || Q) of the cut [first, last), see `cut_by_entropy`."""
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
    q[occupied] = np.maximum(q[occupied], 1e-12)  # bins that only hold what was cut off
    return float((p[occupied] * np.log(p[occupied] / q[occupied])).sum())


def _widened(seen: Range) -> Range:
    """With zero inside, which quantisation must express exactly, and not empty."""
    low, high = min(seen[0], 0.0), max(seen[1], 0.0)
    return (low, high) if high > low else (low, low + 1e-6)


def _activations(
    model: onnx.ModelProto, images: NDArray[np.float32], names: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every named value for every batch of `images`."""
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
            # Rows that only fill a fixed batch would count twice.
            yield spec.name, array[: len(batch)] if array.ndim and len(array) == len(full) else array
