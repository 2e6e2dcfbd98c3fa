"""Ranges of activations: minmax, percentile and entropy, the same for any batch size."""

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rtool.converters.precision.int8_ranges import cut_by_entropy, cut_by_percentile, measure_ranges


def doubling(batch: int | str) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["d"]), helper.make_node("Relu", ["d"], ["y"])],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 50])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 50])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("batch", ["n", 1, 16])
def test_minmax_sees_every_image_whatever_the_batch(batch):
    images = np.random.default_rng(0).standard_normal((21, 50)).astype(np.float32)
    images[20, 7], images[3, 2] = 9.5, -7.25
    ranges = measure_ranges(doubling(batch), images, "minmax", ["x", "d", "y"])
    assert ranges == {"x": (-7.25, 9.5), "d": (-14.5, 19.0), "y": (0.0, 19.0)}


def test_percentile_leaves_out_a_rare_outlier_and_little_else():
    images = np.random.default_rng(0).uniform(-1, 1, (4000, 50)).astype(np.float32)
    images[100, 3] = 50.0
    low, high = measure_ranges(doubling("n"), images, "percentile", ["x", "d"])["x"]
    assert 1.0 <= high <= 1.0 + 2 * 51 / 2048  # one bin of the histogram that the outlier stretched
    assert -1.0 - 51 / 2048 <= low <= -0.99


@pytest.mark.parametrize("left_out", [0.0, 0.01, 0.1])
def test_percentile_agrees_with_sorting_the_numbers(left_out):
    numbers = np.random.default_rng(1).standard_normal(20_000)
    seen = float(numbers.min()), float(numbers.max())
    counts = np.histogram(numbers, 2048, seen)[0]
    low, high = cut_by_percentile(counts, seen, left_out)
    width = (seen[1] - seen[0]) / 2048
    assert low == pytest.approx(np.quantile(numbers, left_out), abs=1.5 * width)
    assert high == pytest.approx(np.quantile(numbers, 1 - left_out), abs=1.5 * width)


def divergence(counts: np.ndarray, first: int, last: int, levels: int) -> float:
    """The KL divergence as in its definition, bin by bin."""
    inside = [float(count) for count in counts[first:last]]
    p = list(inside)
    p[0] += float(counts[:first].sum())
    p[-1] += float(counts[last:].sum())
    edges = [int(edge) for edge in np.linspace(0, len(inside), levels + 1)]
    q = [0.0] * len(inside)
    for start, stop in pairwise(edges):
        occupied = [index for index in range(start, stop) if p[index] > 0]
        for index in occupied:
            q[index] = sum(inside[start:stop]) / len(occupied)
    total_p, total_q = sum(p), sum(q)
    return sum(
        a / total_p * np.log((a / total_p) / max(b / total_q, 1e-12)) for a, b in zip(p, q, strict=True) if a > 0
    )


def test_entropy_chooses_the_candidate_with_the_smallest_divergence():
    """One tail of rare large numbers: brute force over the same candidates finds the same cut."""
    generator = np.random.default_rng(2)
    numbers = np.concatenate([np.abs(generator.standard_normal(30_000)), generator.uniform(4, 20, 40)])
    counts, levels = np.histogram(numbers, 512, (0.0, 20.0))[0], 64
    low, high = cut_by_entropy(counts, (0.0, 20.0), levels)
    smoothed = counts.copy()
    smoothed[0] = smoothed[1]  # the bin of zero counts as its neighbour
    lasts = sorted({round(512 * share) for share in np.linspace(1.0, levels / 512, 128)})
    best = min((last for last in lasts if last >= levels), key=lambda last: divergence(smoothed, 0, last, levels))
    assert (low, high) == (0.0, pytest.approx(20.0 * best / 512))
    assert high < 10.0


def test_entropy_is_not_decided_by_the_zeros_of_a_relu():
    generator = np.random.default_rng(3)
    positive = np.abs(generator.standard_normal(50_000))
    counts = np.histogram(positive, 2048, (0.0, float(positive.max())))[0]
    sparse = counts.copy()
    sparse[0] += 1_000_000
    seen = (0.0, float(positive.max()))
    assert cut_by_entropy(sparse, seen) == cut_by_entropy(counts, seen)
    assert cut_by_entropy(sparse, seen)[1] > 2.0


@pytest.mark.parametrize("batch", ["n", 16])
def test_every_image_counts_once_whatever_their_order_and_number(batch):
    images = np.random.default_rng(5).standard_normal((17, 50)).astype(np.float32)
    images[16] *= 10
    forwards = measure_ranges(doubling(batch), images, "entropy", ["d"])
    assert forwards == measure_ranges(doubling(batch), images[::-1].copy(), "entropy", ["d"])


def test_the_input_alone_can_be_measured():
    images = np.random.default_rng(6).standard_normal((3, 50)).astype(np.float32)
    assert measure_ranges(doubling("n"), images, "minmax", ["x"])["x"] == (images.min(), images.max())
