"""Where on one picture a mask is drawn: the face's own axes, moved a little at random as no mask sits alike twice.

The ranges are those of OAML's transforms: each point by 3 pixels, the whole by 5, the size from 0.95 to 1.10, the angle
by 7 degrees; a pixel is that of an aligned face of 112 x 112, so it grows with the distance of the eyes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .face_points import LANDMARK_PLACES

__all__ = ["FaceFrame", "place_frame"]

Points = NDArray[np.float64]

_POINT_JITTER, _SHIFT, _ANGLE = 3.0, 5.0, np.deg2rad(7)
_SCALES = 0.95, 1.10
_EYE_DISTANCE = float(np.hypot(*(LANDMARK_PLACES[1] - LANDMARK_PLACES[0])))


@dataclass(frozen=True)
class FaceFrame:
    """Axes of a face in pixels of its picture; x to the right, y down."""

    mouth: Points
    """Middle of the mouth [2]."""
    eyes: Points
    """Middle between the eyes [2]."""
    along: Points
    """Unit vector [2] along the mouth, to the right of the picture."""
    down: Points
    """Unit vector [2] from the nose to the chin, at a right angle to `along`."""
    mouth_width: float
    nose_to_mouth: float
    eye_distance: float
    height: int
    """Of the picture in pixels."""
    width: int

    def from_mouth(self, places: Points) -> Points:
        """Pixels of places [n, 2], in mouth widths along and in distances from nose to mouth down, from the mouth."""
        scaled = places * (self.mouth_width, self.nose_to_mouth)
        return self.mouth + scaled[:, :1] * self.along + scaled[:, 1:] * self.down

    def from_eyes(self, places: Points) -> Points:
        """Pixels of places [n, 2] in distances of the eyes, from the middle between them."""
        scaled = places * self.eye_distance
        return self.eyes + scaled[:, :1] * self.along + scaled[:, 1:] * self.down


def place_frame(points: NDArray[np.floating], height: int, width: int, rng: np.random.Generator) -> FaceFrame:
    """The frame of a face with its five points [5, 2] in pixels of a picture, moved at random.

    A mouth is taken to be no narrower than half the distance of the eyes, and no nearer to the nose than half its
    width, so that what is drawn on an odd face still covers it.
    """
    pixel = max(float(np.hypot(*(points[1] - points[0]))), 1.0) / _EYE_DISTANCE
    moved = np.asarray(points, dtype=np.float64) + pixel * rng.uniform(-_POINT_JITTER, _POINT_JITTER, (5, 2))
    shift = pixel * rng.uniform(-_SHIFT, _SHIFT, 2)
    scale, angle = rng.uniform(*_SCALES), rng.uniform(-_ANGLE, _ANGLE)
    left_eye, right_eye, nose, left, right = moved
    mouth = (left + right) / 2
    eye_distance = max(float(np.hypot(*(right_eye - left_eye))), pixel * _POINT_JITTER)
    mouth_width = max(float(np.hypot(*(right - left))), 0.5 * eye_distance)
    x, y = (right - left) / max(float(np.hypot(*(right - left))), 1e-6)
    along = np.array([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y])
    return FaceFrame(
        mouth=mouth + shift,
        eyes=(left_eye + right_eye) / 2 + shift,
        along=along,
        down=np.array([-along[1], along[0]]),
        mouth_width=scale * mouth_width,
        nose_to_mouth=scale * max(float(np.hypot(*(mouth - nose))), 0.5 * mouth_width),
        eye_distance=scale * eye_distance,
        height=height,
        width=width,
    )
