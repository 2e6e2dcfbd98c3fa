"""A face turned, scaled and shifted so that its eyes, nose and mouth lie where recognition networks expect them.

The similarity transform that maps five landmarks to their places with least squared error: Umeyama, "Least-squares
estimation of transformation parameters between two point patterns", 1991. The places are those of ArcFace
(arXiv:1801.07698) in 112 x 112 pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...data.occlusion.face_points import ALIGNED_SIZE, LANDMARK_PLACES

__all__ = ["ALIGNED_SIZE", "LANDMARK_PLACES", "align_face", "similarity_transform"]

Points = NDArray[np.float64]


def similarity_transform(source: Points, target: Points) -> Points:
    """The matrix float64 [2, 3] of rotation, scale and shift that maps `source` [n, 2] nearest to `target` [n, 2]."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    from_centre, to_centre = source - source_mean, target - target_mean
    left, values, right = np.linalg.svd(to_centre.T @ from_centre / len(source))
    signs = np.ones(2)
    if np.linalg.det(left) * np.linalg.det(right) < 0:
        signs[-1] = -1
    rotation = left @ np.diag(signs) @ right
    spread = from_centre.var(axis=0).sum()
    scale = (values * signs).sum() / spread if spread > 0 else 1.0
    shift = target_mean - scale * rotation @ source_mean
    return np.concatenate([scale * rotation, shift[:, None]], axis=1)


def align_face(image: Image.Image, landmarks: Points) -> Image.Image:
    """The face at `landmarks` (x, y) float64 [5, 2] as RGB of 112 x 112 pixels, bilinear, black around."""
    matrix = similarity_transform(landmarks, LANDMARK_PLACES)
    back = np.linalg.inv(np.concatenate([matrix, [[0, 0, 1]]]))[:2]
    # Pillow maps the centres of pixels, half a pixel from where coordinates count them.
    back[:, 2] += back[:, :2] @ (-0.5, -0.5) + 0.5
    return image.convert("RGB").transform(
        (ALIGNED_SIZE, ALIGNED_SIZE), Image.Transform.AFFINE, tuple(back.ravel()), Image.Resampling.BILINEAR
    )
