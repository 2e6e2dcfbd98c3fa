"""Classification logits with margins, as pure functions of the cosines between embeddings and class weights.

Each returns logits whose softmax cross-entropy is the loss. Sources:
- Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", arXiv:1704.08063 (m1);
- Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", arXiv:1801.07698 (m2, and all three);
- Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", arXiv:1801.09414, and Wang et al.,
  "Additive Margin Softmax for Face Verification", arXiv:1801.05599 (m3);
- Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", arXiv:2204.00964;
- Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", arXiv:2002.10857 (class form).

Differences from insightface's arcface_torch: there m2 is dropped as soon as m3 > 0, and the gradient ignores the angle;
here all three margins are applied and `gradient` chooses.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.choices import MarginGradient

__all__ = ["adaface_logits", "circle_logits", "cosine_logits", "margin_logits"]

_FARTHEST_START = 2 * math.pi / 3
"""An angle, in radians, that hardly any label of a fresh classifier has: 120 degrees."""
_EDGE = 1e-6
"""How far a cosine stays from +-1 where acos has no finite slope."""


def cosine_logits(embeddings: Tensor, weight: Tensor) -> Tensor:
    """Cosines float32 [N, C] of embeddings [N, D] and class weights [C, D], also under autocast."""
    with torch.autocast(embeddings.device.type, enabled=False):
        return F.linear(F.normalize(embeddings.float()), F.normalize(weight.float()))


def margin_logits(
    cosine: Tensor,
    labels: Tensor,
    *,
    scale: float = 64.0,
    m1: float = 1.0,
    m2: float = 0.5,
    m3: float = 0.0,
    gradient: MarginGradient = "exact",
    filter_above: float | None = None,
) -> Tensor:
    """Logits [N, C]: z_j = s cos t_j, and z_y = s (psi(m1 t_y + m2) - m3) for the labelled class.

    psi(a) = cos a up to pi. Beyond it psi stays at -1, without a gradient, for margins that bring only angles t above
    120 degrees there, as ArcFace's do. Larger ones would bring the angles of a fresh classifier there, about 90
    degrees; with them psi falls on as SphereFace defines it (arXiv:1704.08063, equation 7): psi(a) = (-1)^k cos a - 2k
    with k = floor(a / pi), which is monotone and has a continuous slope.

    Args:
        cosine: cos t, float [N, C]; with m1 = 1 and m2 = 0 the angle is not computed.
        labels: int64 [N]; a negative label has no class here (another shard's) and gets no margin.
        scale: s.
        m1: Factor of the angle (SphereFace).
        m2: Added to the angle (ArcFace).
        m3: Subtracted from the cosine (CosFace).
        gradient: "exact", or "straight_through": dz_y / dcos t_y = s, as arcface_torch trains.
        filter_above: Set cosines of other classes above this value to zero; such pairs are likely label noise.
    """
    if not cosine.shape[1]:  # a shard without classes
        return scale * cosine
    # By masks instead of by the rows that have a label, whose number a GPU would be waited for.
    here, column = labels >= 0, labels.clamp(min=0)[:, None]
    plain = cosine.gather(1, column).squeeze(1)
    if gradient == "straight_through":
        with torch.no_grad():
            shift = _with_margin(plain, m1, m2, m3) - plain
        target = plain + shift
    else:
        target = _with_margin(plain, m1, m2, m3)
    if filter_above is not None:
        cosine = torch.where(cosine > filter_above, torch.zeros_like(cosine), cosine)
        plain = cosine.gather(1, column).squeeze(1)
    return scale * cosine.scatter(1, column, torch.where(here, target, plain)[:, None])


def _with_margin(cosine: Tensor, m1: float, m2: float, m3: float) -> Tensor:
    if m1 == 1.0 and m2 == 0.0:
        return cosine - m3
    angle = m1 * torch.acos(cosine.clamp(-1 + _EDGE, 1 - _EDGE)) + m2
    if m1 * _FARTHEST_START + m2 < math.pi:
        return torch.cos(angle.clamp(max=math.pi)) - m3
    turns = torch.floor(angle.detach() / math.pi)
    return (1 - 2 * (turns % 2)) * torch.cos(angle) - 2 * turns - m3


def adaface_logits(
    cosine: Tensor,
    labels: Tensor,
    quality: Tensor,
    *,
    scale: float = 64.0,
    margin: float = 0.4,
    edge: float = 1e-3,
) -> Tensor:
    """Logits [N, C]: z_j = s cos t_j, and z_y = s [cos(clip(t_y - m k, e, pi - e)) - (m + m k)] for the labelled class.

    Args:
        cosine: cos t, float [N, C].
        labels: int64 [N].
        quality: k, the image quality in -1..1, float [N], detached: clip(h (norm - mean) / (deviation + e), -1, 1).
        scale: s.
        margin: m.
        edge: e, how far angles stay from 0 and pi, in radians.
    """
    rows = torch.arange(len(labels), device=labels.device)
    angle = torch.acos(cosine[rows, labels].clamp(-1 + edge, 1 - edge))
    angle = (angle - margin * quality).clamp(edge, math.pi - edge)
    return scale * cosine.index_put((rows, labels), torch.cos(angle) - margin * (1 + quality))


def circle_logits(cosine: Tensor, labels: Tensor, *, scale: float = 64.0, margin: float = 0.35) -> Tensor:
    """Logits [N, C]: z_j = s a_n (cos t_j - m), and z_y = s a_p (cos t_y - 1 + m) for the labelled class.

    a_p = [1 + m - cos t_y]+ and a_n = [cos t_j + m]+ are detached.

    Args:
        cosine: cos t, float [N, C].
        labels: int64 [N].
        scale: s, the paper's gamma.
        margin: m.
    """
    rows = torch.arange(len(labels), device=labels.device)
    fixed = cosine.detach()
    negative = (fixed + margin).clamp(min=0) * (cosine - margin)
    target = cosine[rows, labels]
    positive = (1 + margin - target.detach()).clamp(min=0) * (target - 1 + margin)
    return scale * negative.index_put((rows, labels), positive)
