"""1:N: whom a probe shows, among the templates of a gallery, as on IJB-B and IJB-C.

Closed set: the share of probes with a mate in the gallery whose mate is among the k nearest. Open set: TPIR at a false
positive identification rate (FPIR) is the share of them whose mate is the nearest, and nearer than the threshold that
at most the share FPIR of the probes without a mate exceed with any template (Grother, Ngan, NIST IR 8009). Figures are
means over the galleries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..cores import Progress, blocks, no_progress
from .template_folder import Subjects

__all__ = ["identification_rates"]

Floats = NDArray[np.float32]

_DEPTHS = (1, 5, 10)
_FPIRS = {"tpir_at_fpir_1e1": 1e-1, "tpir_at_fpir_1e2": 1e-2}


def identification_rates(
    unit: Floats, galleries: tuple[Subjects, ...], probes: Subjects, report: Progress = no_progress
) -> dict[str, float | None]:
    """rank1, rank5, rank10 and TPIR at FPIR 0.1 and 0.01; None where probes without a mate are fewer than 1 / FPIR.

    Args:
        unit: Unit embeddings of all templates, float32 [T, D].
        galleries: One or several.
        probes: Compared with each.
        report: Called with the number of probes that are done.

    Raises:
        DataError: no probe has a mate in a gallery.
    """
    found = [_of_gallery(unit, gallery, probes, report) for gallery in galleries]
    names = found[0]
    return {
        name: None if any(each[name] is None for each in found) else float(np.mean([each[name] for each in found]))
        for name in names
    }


def _of_gallery(unit: Floats, gallery: Subjects, probes: Subjects, report: Progress) -> dict[str, float | None]:
    best, rank = np.empty(len(probes.templates), dtype=np.float32), np.empty(len(probes.templates), dtype=np.int64)
    mated = np.isin(probes.subjects, gallery.subjects)
    if not mated.any():
        raise DataError("1:N: no probe shows a subject of the gallery")
    for block in blocks(len(best), len(gallery.templates)):
        scores = unit[probes.templates[block]] @ unit[gallery.templates].T
        best[block] = scores.max(axis=1)
        own = gallery.subjects == probes.subjects[block, None]
        mate = np.where(own, scores, -np.inf).max(axis=1)
        rank[block] = ((scores >= mate[:, None]) & ~own).sum(axis=1)  # a template of another, as near, comes first
        report("identifying probes", block.stop, len(best))
    rates: dict[str, float | None] = {f"rank{depth}": float((rank[mated] < depth).mean()) for depth in _DEPTHS}
    strangers = np.sort(best[~mated])[::-1]
    for name, fpir in _FPIRS.items():
        allowed = int(fpir * len(strangers) * (1 + 1e-12))
        rates[name] = float(((rank[mated] == 0) & (best[mated] > strangers[allowed])).mean()) if allowed else None
    return rates
