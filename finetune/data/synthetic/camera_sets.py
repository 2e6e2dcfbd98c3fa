"""Sets of drawn cameras: a response that the cameras of one set share, and a smaller change of each.

A set is a domain: a model that learned under one is worse under another, as between real sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cameras", "draw_cameras"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Cameras:
    """Response of each camera [V, ...]."""

    colour: Floats
    gamma: Floats
    offset: Floats
    zoom: Floats
    rotation: Floats
    blur: Floats
    noise: Floats
    brightness: Floats

    def of(self, camera: NDArray[np.int64]) -> Cameras:
        """The response to each of B pictures, by the number [B] of its camera."""
        return Cameras(**{name: field[camera] for name, field in vars(self).items()})


def draw_cameras(rng: np.random.Generator, views: int, shift: float) -> Cameras:
    """One domain response, and a smaller one of each camera around it."""
    hue = shift * rng.choice([-1, 1]) * rng.uniform(0.7, 1.3)
    saturation = 1 - shift * rng.uniform(0.2, 0.5)
    gamma = np.exp(shift * rng.choice([-1, 1]) * rng.uniform(0.2, 0.5))
    domain = _hue_rotation(hue) @ (saturation * np.eye(3) + (1 - saturation) / 3)
    colour = np.stack([(np.eye(3) + rng.normal(0, 0.06, (3, 3))) @ domain for _ in range(views)])
    tilt, zoom = shift * rng.normal(0, 0.05), np.exp(shift * rng.normal(0, 0.08))
    return Cameras(
        colour=colour.astype(np.float32),
        gamma=(gamma * np.exp(rng.normal(0, 0.15, views))).astype(np.float32),
        offset=(shift * rng.normal(0, 0.04, 3) + rng.normal(0, 0.03, (views, 3))).astype(np.float32),
        zoom=(zoom * np.exp(rng.normal(0, 0.06, views))).astype(np.float32),
        rotation=(tilt + rng.normal(0, 0.03, views)).astype(np.float32),
        blur=np.clip(shift * rng.uniform(0, 0.7) + rng.uniform(0, 0.3, views), 0, 0.8).astype(np.float32),
        noise=rng.uniform(0.01, 0.04, views).astype(np.float32),
        brightness=np.broadcast_to(rng.uniform(0.3, 0.7), views).astype(np.float32),
    )


def _hue_rotation(angle: float) -> NDArray[np.float64]:
    """Rotation of RGB about the grey axis (Rodrigues)."""
    k = np.cross(np.eye(3), np.ones(3) / np.sqrt(3))
    rotation: NDArray[np.float64] = np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)
    return rotation
