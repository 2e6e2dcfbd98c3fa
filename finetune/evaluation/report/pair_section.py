"""What a report shows of a pair evaluation: figures and curves of every score, and the hardest pairs.

What the visibility head takes for hidden is tinted red; without a head it is what the drawn masks hide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..pairs.receiver_curve import ReceiverCurve
from ..standalone.pair_evaluation import MeasuredPairs
from ..standalone.pair_files import rate_text, verification_rates
from .charts import roc_chart, score_chart
from .examples import ShownImage, ShownPair, as_data_uri

__all__ = ["hardest_scored_pairs", "pair_charts", "pair_table"]

Pixels = NDArray[np.uint8]

_EACH = 10
"""Hardest pairs shown of one identity, and of two."""
_LEAST_SIDE = 112
_RED = np.array([207, 34, 46], dtype=np.float32)
_OPACITY = 0.55
_MEANINGS = {"embedding": "cosine of embeddings", "matcher": "score of the matcher", "combined": "combined score"}


def pair_table(pairs: MeasuredPairs) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one for each score."""
    fars = pairs.settings.fars
    head = ["score", "genuine", "impostor", "accuracy", "AUC", "EER", *(f"VR at FAR {rate_text(far)}" for far in fars)]
    rows = []
    for name, result in pairs.result.results.items():
        scored = pairs.result.many[name]
        cells = [f"{scored.same:,}", f"{scored.different:,}", f"{result.accuracy:.4f}", f"{result.auc:.4f}"]
        rates = verification_rates(scored, fars).values()
        shown = ["too few impostors" if rate["vr"] is None else f"{rate['vr']:.4f}" for rate in rates]
        rows.append([name, *cells, f"{result.eer:.4f}", *shown])
    return head, rows


def pair_charts(pairs: MeasuredPairs) -> list[tuple[str, str]]:
    """Caption and SVG of the ROC of all scores, and of the histogram of each."""
    curves = {name: ReceiverCurve(each.scores, each.is_same) for name, each in pairs.result.many.items()}
    charts = [("ROC: share of genuine pairs accepted, over the share of impostor pairs accepted", roc_chart(curves))]
    return charts + [
        (
            f"{name}: of genuine (same) and of impostor (different) pairs",
            score_chart(curve.same, curve.different, _MEANINGS[name]),
        )
        for name, curve in curves.items()
    ]


def hardest_scored_pairs(pairs: MeasuredPairs) -> tuple[list[ShownPair], list[ShownPair]]:
    """The genuine pairs with the lowest scores, and the impostor pairs with the highest, by the main score."""
    scored = pairs.result.many[pairs.main_score]
    order = np.argsort(scored.scores, kind="stable")
    same = order[scored.is_same[order]][:_EACH]
    different = order[~scored.is_same[order]][::-1][:_EACH]
    return [_pair(pairs, int(row)) for row in same], [_pair(pairs, int(row)) for row in different]


def _pair(pairs: MeasuredPairs, row: int) -> ShownPair:
    scored = pairs.result.many[pairs.main_score]
    numbers = pairs.numbers[row]
    pixels = pairs.images.read(numbers)
    visible = _visible(pairs, numbers, pixels)
    count = len(pairs.images.dataset)
    shown = [
        ShownImage(
            as_data_uri(_tinted(pixels[side], visible[side])), str(pairs.images.dataset.names[numbers[side] % count])
        )
        for side in (0, 1)
    ]
    return ShownPair(shown[0], shown[1], float(scored.scores[row]))


def _visible(pairs: MeasuredPairs, numbers: NDArray[np.int64], pixels: Pixels) -> NDArray[np.float32]:
    """What of each image is visible, 0 to 1, [n, h, w]."""
    if pairs.matcher is not None:
        said = pairs.matcher.visibility(pairs.matcher.describe(pixels))
        if said is not None:
            return said
    return pairs.images.visible(numbers).astype(np.float32) / np.float32(255)


def _tinted(pixels: Pixels, visible: NDArray[np.float32]) -> Image.Image:
    """The picture, enlarged if it is small, with what is hidden in red."""
    height, width, channels = pixels.shape
    zoom = max(1, round(_LEAST_SIDE / height))
    size = (width * zoom, height * zoom)
    picture = Image.fromarray(np.repeat(pixels, 3, axis=2) if channels == 1 else pixels).resize(
        size, Image.Resampling.BICUBIC
    )
    shares = Image.fromarray(np.clip(visible * 255, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    hidden = (1 - np.asarray(shares, dtype=np.float32) / 255)[..., None] * _OPACITY
    values = np.asarray(picture, dtype=np.float32)
    return Image.fromarray((values + hidden * (_RED - values) + 0.5).astype(np.uint8))
