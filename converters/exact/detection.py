"""Non-maximum suppression, per image and class, as ONNX defines it.

Imports only torch: its source is copied into generated model files.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["non_maximum_suppression"]


def _corners(boxes: Tensor, centred: bool) -> Tensor:
    """Boxes as low and high corners; given are two opposite corners in any order, or centre and size."""
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
    """Indices [K, 3] (image, class, box) of boxes kept, best first in each class.

    `boxes` [N, B, 4], `scores` [N, C, B]. At most `most` boxes a class; a box that overlaps a better one by more than
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
            kept = 0
            while order.numel() and kept < most:
                best = int(order[0])
                chosen.append((image, category, best))
                kept += 1
                rest = order[1:]
                order = rest[_overlap(corners[image, best], corners[image, rest]) <= overlap]
    return torch.tensor(chosen, dtype=torch.int64, device=scores.device).reshape(-1, 3)
