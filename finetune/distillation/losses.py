"""Distillation losses as pure functions: a student's and a teacher's embeddings [N, D] -> a float32 scalar.

e_S, e_T are unit vectors of student and teacher. The dimensions may differ where only relations within the batch are
compared (`rkd_*`, `similarity`); elsewhere the student's are projected first.

Park et al., "Relational Knowledge Distillation", arXiv:1904.05068. Tung and Mori, "Similarity-Preserving Knowledge
Distillation", arXiv:1907.09682. Boutros et al., "AdaDistill: Adaptive Knowledge Distillation for Deep Face
Recognition", arXiv:2407.01332. Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "cosine_loss",
    "moved_centres",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "similarity_loss",
    "softened_divergence",
]

_SMALL = 1e-12


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - <e_S, e_T>, which is half the squared distance of the unit vectors.

    Args:
        student: [N, D], of any length.
        teacher: [N, D], of any length.
    """
    return 1 - F.cosine_similarity(student, teacher, dim=1, eps=_SMALL).mean()


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-D: Huber loss (delta 1) between the distances of all pairs, each divided by the mean over the pairs.

    Args:
        student: [N, D_S], N >= 2; compared as unit vectors.
        teacher: [N, D_T]; likewise.
    """
    apart = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    distances = [_distances(F.normalize(rows))[apart] for rows in (student, teacher)]
    found, wanted = (each / each.mean().clamp(min=_SMALL) for each in distances)
    return F.smooth_l1_loss(found, wanted)


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-A: Huber loss (delta 1) between cos of the angle at j of all triples i, j, k of different images.

    Memory grows with N^3: 17 million numbers for each side at N = 256.

    Args:
        student: [N, D_S], N >= 3; compared as unit vectors.
        teacher: [N, D_T]; likewise.
    """
    count = len(student)
    same = torch.eye(count, dtype=torch.bool, device=student.device)
    different = ~(same[:, :, None] | same[:, None, :] | same[None, :, :])
    angles = []
    for rows in (student, teacher):
        unit = F.normalize(rows)
        directions = F.normalize(unit[None, :, :] - unit[:, None, :], dim=2)  # [j, i, D]: from j to i
        angles.append(torch.bmm(directions, directions.transpose(1, 2))[different])
    return F.smooth_l1_loss(angles[0], angles[1])


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """|G_S - G_T|_F^2 / N^2, where G is the Gram matrix E E^T with each row divided by its length.

    Args:
        student: [N, D_S].
        teacher: [N, D_T].
    """
    grams = [F.normalize(rows @ rows.t()) for rows in (student, teacher)]
    return (grams[0] - grams[1]).square().sum() / len(student) ** 2


def moved_centres(centres: Tensor, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Class centres of AdaDistill after a batch: w_y <- a w_y + (1 - a) e_T, a = clip(<e_S, e_T> <w_y, e_T>, 1e-6, 1).

    The more the student has learned of an image, the less its centre still follows the single image. Where a batch has
    several images of a class, the mean of what each would give is taken, so that their order does not matter.

    Args:
        centres: Unit rows [C, D]; rows of zeros before the class is first seen.
        student: e_S [N, D].
        teacher: e_T [N, D].
        labels: int64 [N].

    Returns:
        Unit rows [C, D]; those of classes not in the batch as they were.
    """
    own = centres[labels]
    share = ((student * teacher).sum(1) * (own * teacher).sum(1)).clamp(1e-6, 1)[:, None]
    moved = share * own + (1 - share) * teacher
    sums = torch.zeros_like(centres).index_add_(0, labels, moved)
    seen = torch.zeros(len(centres), dtype=torch.bool, device=centres.device)
    seen[labels] = True
    return torch.where(seen[:, None], F.normalize(sums), centres)


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch.

    Args:
        student: Logits [N, C]; classes that are left out are -inf in both.
        teacher: Logits [N, C].
        temperature: T.
    """
    wanted = F.log_softmax(teacher / temperature, dim=1)
    found = F.log_softmax(student / temperature, dim=1)
    counted = wanted > -torch.inf
    gap = torch.where(counted, wanted - torch.where(counted, found, 0.0), 0.0)
    return temperature**2 * (wanted.exp() * gap).sum(1).mean()


def _distances(unit: Tensor) -> Tensor:
    """Euclidean distances [N, N]; their gradient is finite where two rows are equal."""
    products = unit @ unit.t()
    squares = products.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * products).clamp(min=_SMALL).sqrt()
