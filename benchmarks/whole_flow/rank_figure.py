"""Pictures of retrieval: each query with its nearest gallery images, correct matches framed green."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["Figure", "Gallery", "rank_figure"]

_GREEN, _RED, _GREY = (26, 127, 55), (207, 34, 46), (89, 99, 110)
_MARGIN = 4


@dataclass(frozen=True)
class Figure:
    """A picture for the report: a PNG file as base64 text, and its caption."""

    png: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """N images and their labels: pixels uint8 [N, H, W, 3], identities and cameras int64 [N]."""

    pixels: NDArray[np.uint8]
    identities: NDArray[np.int64]
    cameras: NDArray[np.int64]


def rank_figure(
    images: Gallery, embeddings: NDArray[np.float32], queries: Sequence[int], *, shown: int, caption: str
) -> Figure:
    """A picture with one row per query: the query, then its `shown` nearest images from other cameras.

    `embeddings` is float32 [N, D] for the N images; `queries` are indices of images. Nearness is cosine similarity.
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    height, width = images.pixels.shape[1:3]
    cell_height, cell_width = height + 2 * _MARGIN, width + 2 * _MARGIN
    sheet = Image.new("RGB", ((shown + 1) * cell_width + _MARGIN, len(queries) * cell_height), "white")
    for row, query in enumerate(queries):
        similarity = unit @ unit[query]
        similarity[images.cameras == images.cameras[query]] = -np.inf
        order = np.argsort(-similarity, kind="stable")[:shown]
        _paste(sheet, images.pixels[query], 0, row, _GREY, offset=0)
        for column, match in enumerate(order, 1):
            right = images.identities[match] == images.identities[query]
            _paste(sheet, images.pixels[match], column, row, _GREEN if right else _RED, offset=_MARGIN)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return Figure(base64.b64encode(buffer.getvalue()).decode(), caption)


def _paste(
    sheet: Image.Image, pixels: NDArray[np.uint8], column: int, row: int, colour: tuple[int, int, int], offset: int
) -> None:
    height, width = pixels.shape[:2]
    left = column * (width + 2 * _MARGIN) + offset
    top = row * (height + 2 * _MARGIN)
    frame = (left, top, left + width + 2 * _MARGIN - 1, top + height + 2 * _MARGIN - 1)
    ImageDraw.Draw(sheet).rectangle(frame, outline=colour, width=_MARGIN - 1)
    sheet.paste(Image.fromarray(pixels), (left + _MARGIN, top + _MARGIN))
