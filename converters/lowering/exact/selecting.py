"""Gather and scatter by coordinates and selection by condition, with ONNX's meaning of negative indices;
non-maximum suppression per image and class.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "compress",
    "gather_elements",
    "gather_nd",
    "non_maximum_suppression",
    "reverse_sequences",
    "scatter_elements",
    "scatter_nd",
    "unique",
]


def _wrapped(indices: Tensor, size: int) -> Tensor:
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def gather_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """`out[i, j] = x[indices[i, j], j]`, along `axis`."""
    return torch.gather(x, axis, _wrapped(indices, x.size(axis)))


def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, axis: int, reduction: str) -> Tensor:
    """`out[indices[i, j], j] = updates[i, j]`, or reduced with the old values ("sum", "prod", "amax", "amin")."""
    wrapped = _wrapped(indices, x.size(axis))
    if reduction == "none":
        return torch.scatter(x, axis, wrapped, updates)
    return torch.scatter_reduce(x, axis, wrapped, updates, reduction)


def gather_nd(x: Tensor, indices: Tensor, batch_dims: int) -> Tensor:
    """Slices of `x` at the coordinates in the last axis of `indices`; the first `batch_dims` axes are shared."""
    coordinates = list(indices.to(torch.int64).unbind(-1))
    rest = indices.dim() - 1
    batch = []
    for axis in range(batch_dims):
        shape = [1] * rest
        shape[axis] = -1
        batch.append(torch.arange(x.size(axis), device=x.device).reshape(shape))
    return x[tuple(batch + coordinates)]


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """Put `updates` at coordinates, or reduce them with the old values ("sum", "prod", "amax", "amin")."""
    coordinates = indices.to(torch.int64).unbind(-1)
    if reduction == "none":
        return x.index_put(coordinates, updates)
    flat = torch.zeros_like(coordinates[0])
    for axis, coordinate in enumerate(coordinates):
        flat = flat * x.size(axis) + _wrapped(coordinate, x.size(axis))
    rows = x.reshape((-1, *x.shape[len(coordinates) :]))
    pieces = updates.reshape((-1, *rows.shape[1:]))
    where = flat.reshape([-1] + [1] * (rows.dim() - 1)).expand_as(pieces)
    return torch.scatter_reduce(rows, 0, where, pieces, reduction).reshape(x.shape)


def compress(x: Tensor, condition: Tensor, axis: int) -> Tensor:
    """The entries along `axis` where the (possibly shorter) condition holds."""
    return torch.index_select(x, axis, torch.nonzero(condition).squeeze(1))


def reverse_sequences(x: Tensor, lengths: Tensor, time_axis: int, batch_axis: int) -> Tensor:
    """The first `lengths[b]` steps of every batch entry in reverse, the rest unchanged."""
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(moved.size(1), device=x.device).unsqueeze(0)
    ends = lengths.to(torch.int64).unsqueeze(1)
    order = torch.where(steps < ends, ends - 1 - steps, steps)
    rows = torch.arange(moved.size(0), device=x.device).unsqueeze(1)
    return moved[rows, order].movedim((0, 1), (batch_axis, time_axis))


def unique(x: Tensor, axis: int | None, in_order: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distinct entries, the first position of each, the index of the one that each entry is, and their counts.

    They come sorted, or in the order of their first occurrence if `in_order`.
    """
    x = x.flatten() if axis is None else x
    axis = 0 if axis is None else axis
    values, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True, dim=axis)
    positions = torch.arange(inverse.size(0), device=x.device)
    first = torch.full_like(counts, inverse.size(0)).scatter_reduce(0, inverse, positions, "amin")
    if not in_order:
        return values, first, inverse, counts
    order = torch.argsort(first)
    rank = torch.argsort(order)
    return values.index_select(axis, order), first[order], rank[inverse], counts[order]


def _corners(boxes: Tensor, centred: bool) -> Tensor:
    """Boxes as low and high corners, from two opposite corners in any order, or from centre and size if `centred`."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if centred:
        return torch.cat((first - second / 2, first + second / 2), -1)
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), -1)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of one box [4] with others [K, 4]; 0 where either is empty."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    intersection = sides.prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    area = (box[2:] - box[:2]).prod()
    union = area + areas - intersection
    valid = (intersection > 0) & (area > 0) & (areas > 0) & (union > 0)
    return torch.where(valid, intersection / union, 0.0)


def non_maximum_suppression(
    boxes: Tensor, scores: Tensor, most: int, overlap: float, threshold: float | None, centred: bool
) -> Tensor:
    """Indices int64 [K, 3] (image, class, box) of the selected boxes, best first in each class.

    `boxes` [N, B, 4], `scores` [N, C, B]. At most `most` boxes per class; a box that overlaps a better one by more than
    `overlap`, or whose score is not above `threshold`, is dropped.
    """
    chosen = []
    corners = _corners(boxes, centred)
    for image in range(scores.size(0)):
        for category in range(scores.size(1)):
            row = scores[image, category]
            order = torch.argsort(row, descending=True, stable=True)
            if threshold is not None:
                order = order[row[order] > threshold]
            selected = 0
            while order.numel() and selected < most:
                best = int(order[0])
                chosen.append((image, category, best))
                selected += 1
                rest = order[1:]
                order = rest[_overlap(corners[image, best], corners[image, rest]) <= overlap]
    return torch.tensor(chosen, dtype=torch.int64, device=scores.device).reshape(-1, 3)
