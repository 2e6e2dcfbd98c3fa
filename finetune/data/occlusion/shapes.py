"""The outlines of what hides faces: a medical mask, sunglasses, a scarf, a hand and a block.

A medical mask reaches from a little above the tip of the nose to below the chin, with two straps a side to beyond the
picture. The others are as simple as they are, for what a network shall learn is that something hides a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from .cover import Cover
from .face_frame import FaceFrame

__all__ = ["POINTED_KINDS", "SHAPES", "block"]

Points = NDArray[np.float64]
Colour = NDArray[np.float32]

_CURVE = 8
"""Straight pieces per curve."""
_BRIGHTNESS = 0.8, 1.1
_EDGE_JITTER = 0.1
_STRAP = 0.05
_EDGES = np.array([(-1.15, -0.75), (1.15, -0.75), (0, -1.35)])
"""The left and the right edge of a medical mask, and its top."""
_MEDICAL = np.array([(120, 180, 210), (70, 120, 170), (235, 238, 240), (40, 40, 44), (205, 185, 190)], dtype=np.float32)
"""Surgical blue, light and dark, white, black and pink-grey."""
_SKIN = np.array([(232, 196, 170), (205, 160, 125), (160, 112, 82), (110, 75, 55), (70, 48, 38)], dtype=np.float32)
_ROUND = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_STEPS = np.linspace(0, 1, _CURVE, endpoint=False)[:, None]


def medical(frame: FaceFrame, rng: np.random.Generator) -> Cover:
    """A medical mask over nose, mouth and chin."""
    left, right, top = _EDGES + rng.uniform(-_EDGE_JITTER, _EDGE_JITTER, (3, 2))
    chin = 1.2 * 1.15
    right_chin, left_chin, low = np.array([(0.45, 1.15), (-0.45, 1.15), (0, chin)])
    curves = (
        _through(left, top, right),
        _bent(right, (1.2, 0.8), right_chin),
        _bent(right_chin, (0.2, chin), low),
        _bent(low, (-0.2, chin), left_chin),
        _bent(left_chin, (-1.2, 0.8), left),
    )
    far = 2 * frame.width / frame.mouth_width
    straps = [
        (start, (start[0] + side * far, start[1] + slope * far))
        for side, upper in ((-1, left), (1, right))
        for start, slope in ((upper, -0.2), (np.array([side * 1.0, 0.45]), -0.3))
    ]
    return Cover(
        outlines=(frame.from_mouth(np.concatenate(curves)),),
        colour=_pick(_MEDICAL, rng),
        shade="pleats",
        origin=frame.mouth,
        axes=_axes(frame, frame.mouth_width, frame.nose_to_mouth),
        lines=tuple((frame.from_mouth(np.array(ends)), _STRAP * frame.mouth_width) for ends in straps),
    )


def sunglasses(frame: FaceFrame, rng: np.random.Generator) -> Cover:
    """Two dark lenses with a bridge, and temples to beyond the picture."""
    wide, tall, square = rng.uniform(0.36, 0.46), rng.uniform(0.26, 0.36), rng.uniform(0.5, 0.9)
    lens = _rounded(square) * (wide, tall)
    far = 2 * frame.width / frame.eye_distance
    bars = [((-0.5 + wide, 0.0), (0.5 - wide, 0.0))]
    bars += [((side * (0.5 + 0.9 * wide), -0.1), (side * far, -0.1)) for side in (-1, 1)]
    return Cover(
        outlines=tuple(frame.from_eyes(np.add(lens, (side * 0.5, 0.05))) for side in (-1, 1)),
        colour=_pick(np.array([(45, 42, 40), (60, 48, 38), (35, 40, 52)], dtype=np.float32), rng),
        shade="glass",
        origin=frame.eyes,
        axes=_axes(frame, frame.eye_distance, frame.eye_distance / 3),
        lines=tuple((frame.from_eyes(np.array(ends)), 0.06 * frame.eye_distance) for ends in bars),
    )


def scarf(frame: FaceFrame, rng: np.random.Generator) -> Cover:
    """Cloth from the nose to below the picture, as wide as it."""
    far = 2 * frame.width / frame.mouth_width
    x = np.linspace(-far, far, 33)
    top = (
        rng.uniform(-1.3, -0.5) + rng.uniform(0.0, 0.25) * np.minimum(x**2, 4) - rng.uniform(-0.1, 0.1) * np.sin(3 * x)
    )
    bottom = 4 * frame.height / frame.nose_to_mouth
    edge = np.concatenate([np.stack([x, top], axis=1), [(far, bottom), (-far, bottom)]])
    return Cover(
        outlines=(frame.from_mouth(edge),),
        colour=rng.uniform(30, 230, 3).astype(np.float32),
        shade="knit",
        origin=frame.mouth,
        axes=_axes(frame, 2 * frame.mouth_width, 2 * frame.nose_to_mouth),
    )


def hand(frame: FaceFrame, rng: np.random.Generator) -> Cover:
    """A palm with four fingers that come from below or from a side, over a random part of the face."""
    angle, unit = rng.uniform(-2.2, 2.2), frame.eye_distance
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    middle = rng.uniform((-0.6, -0.5), (0.6, 0.3))
    palm = np.stack([0.55 * np.cos(_ROUND), 0.6 * np.sin(_ROUND)], axis=1)
    arm = np.array([(-0.4, 0.3), (0.4, 0.3), (0.4, 6.0), (-0.4, 6.0)])
    fingers = [
        _rounded(0.4) * (0.13, rng.uniform(0.45, 0.6)) + (place, -0.75 + 0.15 * abs(place))
        for place in (-0.42, -0.14, 0.14, 0.42)
    ]
    mouth = frame.mouth - frame.eyes
    start = np.array([mouth @ frame.along, mouth @ frame.down]) / unit
    outlines = tuple(frame.from_eyes(part @ turn + start + middle) for part in (palm, arm, *fingers))
    return Cover(outlines, _pick(_SKIN, rng), "plain", frame.mouth, _axes(frame, unit, unit))


def block(height: int, width: int, rng: np.random.Generator) -> Cover:
    """A rectangle of 10 to 40 % of the picture, aspect 0.5 to 2, anywhere within it."""
    area, aspect = rng.uniform(0.1, 0.4) * height * width, np.exp(rng.uniform(np.log(0.5), np.log(2)))
    tall, wide = min(height, np.sqrt(area * aspect)), min(width, np.sqrt(area / aspect))
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    corners = np.array([(left, top), (left + wide, top), (left + wide, top + tall), (left, top + tall)])
    middle = np.array([left + wide / 2, top + tall / 2])
    return Cover((corners,), rng.uniform(0, 255, 3).astype(np.float32), "plain", middle, np.diag([wide, tall]))


SHAPES: Mapping[str, Callable[[FaceFrame, np.random.Generator], Cover]] = {
    "medical": medical,
    "sunglasses": sunglasses,
    "scarf": scarf,
    "hand": hand,
    "block": lambda frame, rng: block(frame.height, frame.width, rng),
}
"""From a frame and the generator of the sample."""
POINTED_KINDS = frozenset(SHAPES) - {"block"}
"""Those that need to know where the face is."""


def _through(start: Points, middle: Points, end: Points) -> Points:
    """A quadratic curve from `start` to `end` that passes `middle` half-way, without its last point."""
    return _bent(start, 2 * middle - (start + end) / 2, end)


def _bent(start: Points, control: Points | tuple[float, float], end: Points) -> Points:
    """A quadratic Bezier curve, without its last point."""
    curve: Points = (1 - _STEPS) ** 2 * start + 2 * _STEPS * (1 - _STEPS) * np.asarray(control) + _STEPS**2 * end
    return curve


def _rounded(square: float) -> Points:
    """A superellipse of radius 1, rounder the larger `square` is."""
    cosine, sine = np.cos(_ROUND), np.sin(_ROUND)
    return np.stack([np.sign(cosine) * np.abs(cosine) ** square, np.sign(sine) * np.abs(sine) ** square], axis=1)


def _pick(colours: Colour, rng: np.random.Generator) -> Colour:
    picked: Colour = (colours[rng.integers(len(colours))] * rng.uniform(*_BRIGHTNESS)).astype(np.float32)
    return picked


def _axes(frame: FaceFrame, along: float, down: float) -> Points:
    return np.stack([frame.along * along, frame.down * down])
