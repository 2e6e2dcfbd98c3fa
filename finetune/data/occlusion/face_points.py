"""Where the eyes, the nose and the mouth lie in an aligned face, so that no file of landmarks is needed to draw on it.

The places are those of ArcFace (arXiv:1801.07698) in 112 x 112 pixels; a crop of 112 x 96, as SphereFace
(arXiv:1704.08063) has it, is its middle part. Points are shares of width and height, which no
resize changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ....errors import ConfigError

__all__ = ["ALIGNED_SIZE", "LANDMARK_PLACES", "template_points"]

ALIGNED_SIZE = 112
LANDMARK_PLACES: NDArray[np.float64] = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""x and y of the eyes, the nose and the corners of the mouth, left ones of the picture first, in pixels."""
_NARROW = 96


def template_points(
    height: int, width: int, given: Sequence[tuple[float, float]] | None = None, *, setting: str = "augment.mask_points"
) -> NDArray[np.float32]:
    """The five points of an aligned face as shares of width and height, float32 [5, 2] (x, y).

    Args:
        height, width: Of the pictures in pixels.
        given: The points in pixels of such a picture, where its alignment is another one.
        setting: What gives them, for messages.

    Raises:
        ConfigError: pictures of this shape have no known alignment, or a given point lies outside of them.
    """
    if given is not None:
        points = np.asarray(given, dtype=np.float64)
        if points.shape != (5, 2) or (points < 0).any() or (points > (width, height)).any():
            raise ConfigError(
                f"{setting}: expected five points (x, y) within {width} x {height} pixels (width x height), those of "
                "the left and the right eye, the nose and the corners of the mouth"
            )
        _check_order(points, setting)
    elif height == width:
        points = LANDMARK_PLACES * height / ALIGNED_SIZE
    elif height * _NARROW == width * ALIGNED_SIZE:
        points = (LANDMARK_PLACES - ((ALIGNED_SIZE - _NARROW) / 2, 0)) * height / ALIGNED_SIZE
    else:
        raise ConfigError(
            f"{setting}: where the eyes, nose and mouth lie in pictures of {height} x {width} pixels is not known, "
            f"only in those aligned to 112 x 112 or 112 x 96; give the five points, as [[x, y], ...] in pixels"
        )
    return (points / (width, height)).astype(np.float32)


def _check_order(points: NDArray[np.float64], setting: str) -> None:
    """Refuse a face without extent, upside down or mirrored, on which nothing can be placed."""
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    mouth = (left_mouth + right_mouth) / 2
    if left_eye[0] >= right_eye[0] or left_mouth[0] >= right_mouth[0] or nose[1] >= mouth[1]:
        raise ConfigError(
            f"{setting}: expected the left eye left of the right one, the left corner of the mouth left of the right "
            "one, and the nose above the mouth, in the order left eye, right eye, nose, left corner, right corner"
        )
