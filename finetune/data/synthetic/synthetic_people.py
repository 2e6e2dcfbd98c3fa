"""Synthetic people: identity lies in clothes, build and accessories; pose, view and camera vary.

All clothes have one of eight colours, so identities share them and a colour histogram does not identify people. A
camera set is a domain of its own: `cameras` seeds a colour response, exposure, blur, tilt and background shared by its
cameras, to which each adds a smaller change. A model trained under one set is markedly worse under another, as with
real sites. The same arguments give the same pictures; drawing needs about 1 ms per crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..dataset import ArrayImages, Dataset
from .camera_sets import Cameras, draw_cameras
from .raster import Canvas, View, blur, quantise, resize_noise

__all__ = ["synthetic_people"]

Floats = NDArray[np.floating[Any]]

PALETTE = (
    np.array(
        [
            (200, 40, 40),
            (40, 80, 190),
            (40, 140, 60),
            (230, 200, 60),
            (30, 30, 30),
            (235, 235, 235),
            (120, 70, 40),
            (120, 120, 120),
        ],
        dtype=np.float32,
    )
    / 255
)
_VIEWS_OF_ONE = 4
"""How many cameras see one person."""
_CHUNK = 32
"""Pictures drawn at a time, few enough for their arrays to stay in the CPU's cache."""


@dataclass(frozen=True)
class _Looks:
    """The looks of the person in each picture, one value per picture; lengths relative to body height."""

    height: Floats
    build: Floats
    skin: Floats
    hair: Floats
    upper: Floats
    lower: Floats
    second: Floats
    shoes: Floats
    bag: Floats
    bag_colour: Floats
    pattern: NDArray[np.int64]
    period: Floats
    shorts: Floats
    sleeves: Floats


def synthetic_people(
    identities: int = 60,
    images: int = 12,
    seed: int = 0,
    cameras: int = 0,
    views: int = 6,
    size: tuple[int, int] = (128, 64),
    shift: float = 1.0,
) -> Dataset:
    """A data set of drawn people, each seen by up to four of the cameras of one set.

    Args:
        identities: Number of people, at least 2.
        images: Crops per person, at least 2.
        seed: Seeds the people and their pictures.
        cameras: Seeds the camera set, that is the domain.
        views: Number of cameras in the set, at least 2.
        size: Height and width of a crop in pixels.
        shift: How far camera sets lie apart; 0 gives every set the same mean response.

    Raises:
        DataError: a number is too small to make a retrieval data set.

    Examples:
        >>> people = rtool.finetune.synthetic_people(identities=2, images=3, seed=0, size=(16, 8))
        >>> people.identities.tolist(), people.images[0].size
        ([0, 0, 0, 1, 1, 1], (8, 16))
    """
    if identities < 2 or images < 2 or views < 2 or min(size) < 8:
        raise DataError(
            f"synthetic-people: needs at least 2 identities, 2 images, 2 views and 8x8 pixels, got {identities}, "
            f"{images}, {views} and {size[0]}x{size[1]}"
        )
    rng = np.random.default_rng([seed, 1])
    looks = _draw_looks(np.random.default_rng([seed, 0]).random((identities, 16)))
    responses = draw_cameras(np.random.default_rng([cameras, 2]), views, shift)
    owner = np.repeat(np.arange(identities), images)
    camera = _assign_cameras(rng, identities, images, views)
    pixels = np.empty((len(owner), *size, 3), dtype=np.uint8)
    for start in range(0, len(owner), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        person = _Looks(**{name: field[owner[chunk]] for name, field in vars(looks).items()})
        response = responses.of(camera[chunk])
        pixels[chunk] = _photograph(person, response, rng, size)
    return Dataset(
        name=f"synthetic-people:identities={identities},images={images},seed={seed},cameras={cameras}",
        images=ArrayImages(pixels),
        identities=owner.astype(np.int64),
        cameras=camera,
        names=tuple(f"person{i:04d}_c{c}_{k % images:02d}" for k, (i, c) in enumerate(zip(owner, camera, strict=True))),
    )


def _draw_looks(u: NDArray[np.float64]) -> _Looks:
    """Uniform numbers [N, 16] as looks of N people."""
    v = u.astype(np.float32)
    pick = (u * 8).astype(np.int64)
    return _Looks(
        height=0.85 + 0.10 * v[:, 0],
        build=0.075 + 0.035 * v[:, 1],
        skin=np.array([0.86, 0.70, 0.59], dtype=np.float32) * (0.5 + 0.5 * v[:, 2:3]),
        hair=np.array([0.35, 0.24, 0.16], dtype=np.float32) * (0.2 + 1.8 * v[:, 3:4]),
        upper=PALETTE[pick[:, 4]],
        lower=PALETTE[pick[:, 5]],
        second=PALETTE[pick[:, 6]],
        shoes=PALETTE[pick[:, 7]],
        bag=(v[:, 8] < 0.4).astype(np.float32),
        bag_colour=PALETTE[pick[:, 9]],
        pattern=(u[:, 10] * 4).astype(np.int64),
        period=np.array([0.035, 0.055, 0.085], dtype=np.float32)[(u[:, 11] * 3).astype(np.int64)],
        shorts=(v[:, 12] < 0.3).astype(np.float32),
        sleeves=(v[:, 13] < 0.5).astype(np.float32),
    )


def _assign_cameras(rng: np.random.Generator, identities: int, images: int, views: int) -> NDArray[np.int64]:
    """A person is seen by a few cameras, about equally often by each: int64 [identities * images]."""
    seen = min(_VIEWS_OF_ONE, views)
    order = np.argsort(rng.random((identities, views)), axis=1)[:, :seen]
    turn = np.sort(np.arange(images) % seen)
    return order[:, turn].reshape(-1).astype(np.int64)


def _photograph(p: _Looks, camera: Cameras, rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw B people as their cameras see them: uint8 [B, H, W, 3]."""
    count, (height, width) = len(p.height), size
    normal = rng.standard_normal((count, 8), dtype=np.float32)
    uniform = rng.random((count, 12), dtype=np.float32)
    coarse = camera.brightness[:, None, None, None] + 0.55 * (rng.random((count, 6, 3, 3), dtype=np.float32) - 0.5)
    view = View(
        rotation=camera.rotation + 0.03 * normal[:, 0],
        zoom=camera.zoom * np.exp(0.05 * normal[:, 1]),
        shear=0.02 * normal[:, 2],
        shift_x=0.03 * normal[:, 3],
        shift_y=0.03 * normal[:, 4],
    )
    canvas = Canvas(resize_noise(coarse, height, width), view)
    _draw_person(canvas, p, sway=1.6 * uniform[:, 0] - 0.8, flipped=uniform[:, 1] < 0.5)
    _draw_occluder(canvas, uniform, width / height)
    pixels = np.clip(blur(canvas.pixels, camera.blur), 1e-3, 1)
    pixels = np.exp(np.log(pixels) * camera.gamma[:, None, None, None])
    exposure = np.exp(0.10 * normal[:, 5])[:, None, None]
    pixels = pixels @ (camera.colour.transpose(0, 2, 1) * exposure)[:, None] + camera.offset[:, None, None]
    pixels += camera.noise[:, None, None, None] * rng.standard_normal(pixels.shape, dtype=np.float32)
    return quantise(pixels)


def _draw_person(canvas: Canvas, p: _Looks, sway: Floats, flipped: NDArray[np.bool_]) -> None:
    top = -p.height / 2
    head = 0.065 * p.height
    neck, waist, foot = top + 2 * head, top + 0.5 * p.height, top + 0.97 * p.height
    side = np.where(flipped, -1, 1).astype(np.float32)
    zero = np.zeros_like(top)
    for s in (-1.0, 1.0):
        hip, ankle = s * 0.45 * p.build, s * (0.5 * p.build + 0.06 * sway)
        knee_y = np.where(p.shorts > 0, top + 0.72 * p.height, foot)
        knee = hip + (ankle - hip) * (knee_y - waist) / (foot - waist)
        canvas.line((knee, knee_y), (ankle, foot), 0.4 * p.build, p.skin, p.shorts)
        canvas.line((hip, waist), (knee, knee_y), 0.75 * p.build, p.lower)
        canvas.ellipse(ankle, foot, 0.4 * p.build, 0.025 * p.height, p.shoes)
    middle, half = (neck + waist) / 2, (waist - neck) / 2 + 0.01
    canvas.box(zero, middle, p.build, half, p.upper)
    for kind, vertical in ((1, False), (2, True)):
        where = (p.pattern == kind).astype(np.float32)
        canvas.stripes(zero, middle, p.build, half, p.period, p.second, vertical=vertical, where=where)
    chest = (p.pattern == 3).astype(np.float32)
    canvas.box(zero, neck + 0.13 * p.height, 0.5 * p.build, 0.05 * p.height, p.second, chest)
    forearm = np.where(p.sleeves[:, None] > 0, p.skin, p.upper)
    for s in (-1.0, 1.0):
        shoulder, elbow_y = s * 1.25 * p.build, neck + 0.2 * p.height
        hand = shoulder + s * 0.5 * sway * p.build
        canvas.line((shoulder, elbow_y), (hand, waist), 0.38 * p.build, forearm)
        canvas.line((shoulder, neck + 0.02), (shoulder, elbow_y), 0.45 * p.build, p.upper)
    canvas.ellipse(side * 1.1 * p.build, neck + 0.21 * p.height, 0.5 * p.build, 0.09 * p.height, p.bag_colour, p.bag)
    canvas.ellipse(zero, top + head, 0.8 * head, head, p.skin)
    canvas.ellipse(zero, top + 0.5 * head, 0.9 * head, 0.6 * head, p.hair)


def _draw_occluder(canvas: Canvas, uniform: Floats, aspect: float) -> None:
    """A box of any colour before a third of the people."""
    half = 0.05 + 0.10 * uniform[:, 2]
    canvas.box(
        aspect * (uniform[:, 3] - 0.5),
        uniform[:, 4] - 0.5,
        half,
        half,
        uniform[:, 5:8],
        (uniform[:, 8] < 0.35).astype(np.float32),
    )
