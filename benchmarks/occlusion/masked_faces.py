"""Faces for the study: drawn ones, or the AT&T faces of a folder, each with drawn masks, in memory.

Every variant of the study and every seed trains on the same pictures and the same masks; the masks of the tested faces
are drawn with another fixed seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...finetune.data.dataset import Dataset
from ...finetune.data.decoding import read_pixels
from ...finetune.data.formats.sources import open_dataset
from ...finetune.data.occlusion.masks import draw_mask
from ...finetune.data.splits import split_by_identity
from ...finetune.data.synthetic.synthetic_faces import synthetic_faces

__all__ = ["SIDE", "MaskedFaces", "att_faces", "drawn_faces"]

SIDE = 48
"""Height and width of the pictures."""
_PREPROCESSING = Preprocessing(SIDE, SIDE, (127.5,) * 3, (127.5,) * 3, "rgb", "bilinear")
_KINDS = ("medical",)
_POINTS = np.array([(0.32, 0.42), (0.68, 0.42), (0.50, 0.60), (0.36, 0.78), (0.64, 0.78)], dtype=np.float32)
"""Eyes, nose and corners of the mouth of the AT&T faces, shares of width and height; they are cropped alike."""


@dataclass(frozen=True)
class MaskedFaces:
    """N faces, and each of them behind some masks."""

    clean: NDArray[np.uint8]
    """uint8 [N, H, W, 3]."""
    masked: NDArray[np.uint8]
    """uint8 [N, M, H, W, 3]."""
    visible: NDArray[np.uint8]
    """uint8 [N, M, H, W], 255 where the face shows."""
    identities: NDArray[np.int64]
    """int64 [N], from 0."""


def drawn_faces(identities: int, images: int, seed: int, *, masks: int) -> MaskedFaces:
    """Faces of the generator, whose landmarks it states."""
    dataset = synthetic_faces(identities, images, seed=seed, size=(SIDE, SIDE))
    return _masked(dataset, dataset.landmarks, masks, seed)


def att_faces(folder: Path, seed: int, *, masks: int) -> tuple[MaskedFaces, MaskedFaces]:
    """The AT&T faces: those of 20 people to train on, and of 10 others, held out by `seed`, to test on."""
    train, test = split_by_identity(open_dataset(folder), 1 / 3, seed)
    return _masked(train, None, masks, 1), _masked(test, None, 1, 2)


def _masked(dataset: Dataset, points: NDArray[np.float32] | None, masks: int, seed: int) -> MaskedFaces:
    clean = read_pixels(dataset, _PREPROCESSING.resize).values
    clean = np.repeat(clean, 3, axis=3) if clean.shape[3] == 1 else clean
    rng = np.random.default_rng([seed, 7])
    drawn = [
        [draw_mask(image, _POINTS if points is None else points[number], _KINDS, rng) for _ in range(masks)]
        for number, image in enumerate(clean)
    ]
    return MaskedFaces(
        clean,
        np.stack([[image for image, _ in each] for each in drawn]),
        np.stack([[visible for _, visible in each] for each in drawn]),
        dataset.identities,
    )
