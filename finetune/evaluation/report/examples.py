"""The images that a report shows: the hardest pairs of a verification, the rankings of a retrieval."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...data.dataset import Dataset
from ...data.image_files import UnreadableImageError
from ..measuring import Measured
from ..pairs.verification import ComparedPairs
from ..ranks.retrieval import RankedRetrieval

__all__ = [
    "RankedQuery",
    "ShownImage",
    "ShownPair",
    "as_data_uri",
    "contested_pairs",
    "hardest_pairs",
    "ranked_queries",
]

_PAIRS = 8
_HARDEST, _TYPICAL = 5, 3
_SHOWN = 10
_SIDE = 128
"""Largest height and width of a picture in pixels."""


@dataclass(frozen=True)
class ShownImage:
    """A small picture, its name, and how it is framed."""

    data: str
    """A JPEG as a data URI; "" of an image that cannot be read any more."""
    name: str
    frame: str = ""
    """"right", "wrong" or ""."""


@dataclass(frozen=True)
class ShownPair:
    """Two images and their similarity."""

    first: ShownImage
    second: ShownImage
    score: float
    other: float | None = None
    """Of the model that is compared with."""


@dataclass(frozen=True)
class RankedQuery:
    """A query and the nearest images of its gallery, without junk."""

    query: ShownImage
    nearest: tuple[ShownImage, ...]
    precision: float
    """Its average precision."""
    first: int
    """Rank of its first match, from 1."""


def hardest_pairs(dataset: Dataset, compared: ComparedPairs) -> tuple[list[ShownPair], list[ShownPair]]:
    """The pairs of one identity that are least alike, and those of two that are most alike."""
    scored = compared.scored
    order = np.argsort(scored.scores, kind="stable")
    same = order[scored.is_same[order]][:_PAIRS]
    different = order[~scored.is_same[order]][::-1][:_PAIRS]
    return tuple(  # type: ignore[return-value]
        [
            ShownPair(
                _picture(dataset, int(compared.scored_images[pair, 0])),
                _picture(dataset, int(compared.scored_images[pair, 1])),
                float(scored.scores[pair]),
            )
            for pair in chosen
        ]
        for chosen in (same, different)
    )


def contested_pairs(dataset: Dataset, one: ComparedPairs, other: ComparedPairs) -> list[ShownPair]:
    """The pairs on which two models differ most: by the FAR at which each would accept them, on a logarithmic scale.

    Scores of two models are on scales of their own; the share of different pairs that score higher is on one.
    """
    rates = [np.log10(_false_accepts(each)) for each in (one, other)]
    order = np.argsort(-np.abs(rates[0] - rates[1]), kind="stable")[:_PAIRS]
    return [
        ShownPair(
            _picture(dataset, int(one.scored_images[pair, 0])),
            _picture(dataset, int(one.scored_images[pair, 1])),
            float(one.scored.scores[pair]),
            float(other.scored.scores[pair]),
        )
        for pair in order
    ]


def _false_accepts(compared: ComparedPairs) -> NDArray[np.float64]:
    """The share of different pairs that score as high or higher, of each scored pair; at least half a pair."""
    different = compared.curve.different
    above = len(different) - np.searchsorted(different, compared.scored.scores, side="left")
    shares: NDArray[np.float64] = np.maximum(above, 0.5) / max(len(different), 1)
    return shares


def ranked_queries(measured: Measured, ranked: RankedRetrieval) -> list[RankedQuery]:
    """The queries with the lowest average precision, then some about the median, each with its ranking."""
    ranks = ranked.ranks
    order = np.flatnonzero(ranks.measured)
    order = order[np.argsort(ranks.average_precision[order], kind="stable")]
    hardest = order[:_HARDEST]
    middle = order[_HARDEST:][max(0, len(order) // 2 - _HARDEST) :][:_TYPICAL]
    return [_ranked(measured, ranked, int(query)) for query in (*hardest, *middle)]


def _ranked(measured: Measured, ranked: RankedRetrieval, query: int) -> RankedQuery:
    dataset, gallery = measured.dataset, measured.plan.gallery
    distances = ranked.distances(slice(query, query + 1))[0]
    _, junk = ranked.matches.of(query)
    kept = np.setdiff1d(np.arange(len(gallery)), junk)
    near = kept[np.argsort(distances[kept], kind="stable")[:_SHOWN]]
    pictures = []
    for place in near:
        image = int(gallery[place])
        right = dataset.identities[image] == ranked.identities[query]
        pictures.append(_picture(dataset, image, "right" if right else "wrong"))
    return RankedQuery(
        _picture(dataset, _query_image(measured, ranked, query)),
        tuple(pictures),
        float(ranked.ranks.average_precision[query]),
        int(ranked.ranks.first[query]) + 1,
    )


def _query_image(measured: Measured, ranked: RankedRetrieval, query: int) -> int:
    """The image of a query; of several that were averaged, the first."""
    dataset, queries = measured.dataset, measured.plan.query
    if not ranked.ranking.multi_query:
        return int(queries[query])
    same = (dataset.identities[queries] == ranked.identities[query]) & (
        dataset.cameras[queries] == ranked.cameras[query]
    )
    return int(queries[np.flatnonzero(same)[0]])


def _picture(dataset: Dataset, image: int, frame: str = "") -> ShownImage:
    name = str(dataset.names[image])
    try:
        picture = dataset.images[image].convert("RGB")
    except (UnreadableImageError, OSError):
        return ShownImage("", name, frame)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return ShownImage(as_data_uri(picture), name, frame)


def as_data_uri(picture: Image.Image) -> str:
    """An RGB picture as a JPEG in a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
