"""Synthetic faces: identity lies in shape and colour of the parts; view, light, blur and occlusion vary.

Eighteen numbers make a face. Varied between pictures: affine view, expression, gaze, background, illumination gradient,
gamma, colour cast, blur, an occluding bar. Raw pixels verify them at chance level (55 %), a small network reaches 95 %.
Under a camera set, as of `synthetic_people`, they are another domain. The same arguments give the same pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError
from ..dataset import UNKNOWN_CAMERA, ArrayImages, Dataset
from .camera_sets import Cameras, draw_cameras
from .raster import Canvas, View, blur, quantise, resize_noise

__all__ = ["synthetic_faces"]

Floats = NDArray[np.floating[Any]]

_CHUNK = 32
_PARTS = 18
_VIEWS = 6
"""Cameras of a set."""


def synthetic_faces(
    identities: int = 50,
    images: int = 10,
    seed: int = 0,
    size: tuple[int, int] = (64, 64),
    cameras: int | None = None,
) -> Dataset:
    """A data set of drawn faces, of which no camera is known.

    Args:
        identities: Number of faces, at least 2.
        images: Pictures per face, at least 2.
        seed: Seeds the faces and the pictures.
        size: Height and width of a picture in pixels, at least 8.
        cameras: Seeds the camera set, that is the domain; None takes every picture as it is drawn.

    Raises:
        DataError: a number is too small to make a verification data set.
    """
    if identities < 2 or images < 2 or min(size) < 8:
        raise DataError(
            f"synthetic-faces: needs at least 2 identities, 2 images and 8x8 pixels, got {identities}, {images} and "
            f"{size[0]}x{size[1]}"
        )
    parts = np.random.default_rng([seed, 0]).uniform(-1, 1, (identities, _PARTS)).astype(np.float32)
    rng = np.random.default_rng([seed, 1])
    owner = np.repeat(np.arange(identities), images)
    pixels = np.empty((len(owner), *size, 3), dtype=np.uint8)
    landmarks = np.empty((len(owner), 5, 2), dtype=np.float32)
    for start in range(0, len(owner), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        pixels[chunk], landmarks[chunk] = _photograph(parts[owner[chunk]], rng, size)
    domain = "" if cameras is None else f",cameras={cameras}"
    if cameras is not None:
        _see(pixels, cameras, np.random.default_rng([seed, 2]))
    return Dataset(
        name=f"synthetic-faces:identities={identities},images={images},seed={seed}{domain}",
        images=ArrayImages(pixels),
        identities=owner.astype(np.int64),
        cameras=np.full(len(owner), UNKNOWN_CAMERA, dtype=np.int64),
        landmarks=landmarks,
        names=tuple(f"face{i:04d}_{k % images:02d}" for k, i in enumerate(owner)),
    )


def _photograph(
    p: Floats, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """B faces [B, 18] as pictures uint8 [B, H, W, 3], and their landmarks [B, 5, 2]."""
    count, (height, width) = len(p), size
    n = rng.standard_normal((count, 20), dtype=np.float32)
    u = rng.random((count, 10), dtype=np.float32)
    view = View(
        rotation=np.deg2rad(9) * n[:, 0],
        zoom=np.exp(0.09 * n[:, 1]),
        shear=0.12 * n[:, 2],
        shift_x=0.04 * n[:, 3],
        shift_y=0.04 * n[:, 4],
    )
    canvas = Canvas(resize_noise(rng.random((count, 8, 8, 3), dtype=np.float32), height, width), view)
    _draw_face(canvas, p, n[:, 5:10])
    half = 0.06 + 0.10 * u[:, 0]
    canvas.box(
        (u[:, 1] - 0.5) * width / height,
        0.65 * u[:, 2] - 0.15,
        half,
        half / 2,
        u[:, 3:6],
        (u[:, 6] < 0.3).astype(np.float32),
    )
    pixels = np.clip(blur(canvas.pixels, np.where(u[:, 7] < 0.4, 0.8 * u[:, 8], 0)), 1e-3, 1)
    pixels = np.exp(np.log(pixels) * np.exp(0.35 * n[:, 10, None, None, None]))
    light = _across(width)[None, None, :, None] * n[:, 11, None, None, None]
    light = light + _across(height)[None, :, None, None] * n[:, 12, None, None, None]
    cast = np.exp(0.18 * n[:, 13:16])[:, None, None]
    pixels = pixels * (1 + 0.25 * light) * cast + 0.03 * rng.standard_normal(pixels.shape, dtype=np.float32)
    return quantise(pixels), view.places(_landmarks(p), height, width)


def _landmarks(p: Floats) -> Floats:
    """Eyes, tip of the nose and corners of the mouth in the scene, [B, 5, 2]; an expression moves none of them."""
    eye_x, eye_y = 0.11 + 0.04 * p[:, 6], -(0.06 + 0.03 * p[:, 7])
    nose_y, mouth_x, mouth_y = eye_y + 0.10 + 0.04 * p[:, 13], 0.10 + 0.03 * p[:, 15], 0.17 + 0.03 * p[:, 4]
    x = np.stack([-eye_x, eye_x, 0 * eye_x, -mouth_x, mouth_x], axis=1)
    return np.stack([x, np.stack([eye_y, eye_y, nose_y, mouth_y, mouth_y], axis=1)], axis=2)


def _see(pixels: NDArray[np.uint8], cameras: int, rng: np.random.Generator) -> None:
    """Give each picture, in place, the gamma, colour, offset and noise of one camera of a set."""
    responses = draw_cameras(np.random.default_rng([cameras, 2]), _VIEWS, shift=1.0)
    camera = rng.integers(_VIEWS, size=len(pixels))
    for start in range(0, len(pixels), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        pixels[chunk] = _response(pixels[chunk], responses.of(camera[chunk]), rng)


def _response(pixels: NDArray[np.uint8], camera: Cameras, rng: np.random.Generator) -> NDArray[np.uint8]:
    """B pictures [B, H, W, 3] as their cameras record them."""
    light = np.maximum(pixels.astype(np.float32) / 255, 1e-3) ** camera.gamma[:, None, None, None]
    light = light @ camera.colour.transpose(0, 2, 1)[:, None] + camera.offset[:, None, None]
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    return quantise(light + camera.noise[:, None, None, None] * noise)


def _across(length: int) -> Floats:
    return np.linspace(-1, 1, length, dtype=np.float32)


def _draw_face(canvas: Canvas, p: Floats, n: Floats) -> None:
    """Parts in drawing order; `n` [B, 5] varies expression: eye opening, gaze, brows (2), mouth."""
    zero = np.zeros(len(p), dtype=np.float32)
    blue = np.array([0, 0, 20 / 255], dtype=np.float32) * p[:, 1:2]
    skin = np.clip(np.array([200, 160, 130], dtype=np.float32) / 255 * (0.75 + 0.25 * p[:, :1]) + blue, 0, 1)
    hair = np.clip(np.array([90, 60, 40], dtype=np.float32) / 255 * (0.5 + p[:, 2:3]), 0, 1)
    w, h = 0.27 + 0.06 * p[:, 3], 0.36 + 0.05 * p[:, 4]
    canvas.ellipse(zero, -0.35 * h, 1.15 * w, 0.85 * h, hair)
    canvas.ellipse(zero, zero, w, h, skin)
    fringe = 0.40 - 0.15 * p[:, 5]
    canvas.ellipse(zero, -1.05 * h, w, fringe * h, hair)
    eye_x, eye_y, eye = 0.11 + 0.04 * p[:, 6], -(0.06 + 0.03 * p[:, 7]), 0.028 + 0.014 * p[:, 8]
    opening = np.maximum(0.25, 1 + 0.25 * n[:, 0])
    white = np.full((len(p), 3), 0.96, dtype=np.float32)
    iris = np.stack([zero + 0.16, (40 + 60 * (p[:, 9] + 1)) / 255, zero + 0.24], axis=1)
    brow_y = eye_y - (0.05 + 0.015 * p[:, 10])
    slope, thick = 0.03 * p[:, 11], 0.02 + 0.012 * p[:, 12]
    for index, s in enumerate((-1.0, 1.0)):
        x = s * eye_x
        canvas.ellipse(x, eye_y, 1.6 * eye, eye * opening, white)
        canvas.ellipse(x + 0.3 * eye * n[:, 1], eye_y, 0.7 * eye, 0.7 * eye, iris)
        lift = 0.006 * n[:, 2 + index]
        canvas.line((x - 2 * s * eye, brow_y + slope + lift), (x + 2 * s * eye, brow_y - slope + lift), thick, hair)
    nose_l, nose_w = 0.10 + 0.04 * p[:, 13], 0.04 + 0.02 * p[:, 14]
    canvas.line((zero, eye_y + 0.02), (zero, eye_y + nose_l), 0.5 * nose_w, 0.85 * skin)
    canvas.ellipse(zero, eye_y + nose_l, nose_w, 0.5 * nose_w, 0.85 * skin)
    mouth = np.broadcast_to(np.array([150, 50, 50], dtype=np.float32) / 255, (len(p), 3))
    mouth_h = (0.012 + 0.008 * (p[:, 16] + 1)) * (1 + np.abs(0.8 * n[:, 4]))
    canvas.ellipse(zero, 0.17 + 0.03 * p[:, 4], 0.10 + 0.03 * p[:, 15], mouth_h, mouth)
    _draw_glasses(canvas, eye_x, eye_y, eye, (p[:, 17] > 0.6).astype(np.float32))


def _draw_glasses(canvas: Canvas, eye_x: Floats, eye_y: Floats, eye: Floats, where: Floats) -> None:
    """Two square frames round the eyes."""
    dark = np.full((len(where), 3), 0.08, dtype=np.float32)
    thin = np.full(len(where), 0.02, dtype=np.float32)
    top, bottom = eye_y - 2.4 * eye, eye_y + 2.4 * eye
    for s in (-1.0, 1.0):
        left, right = s * eye_x - 2.6 * eye, s * eye_x + 2.6 * eye
        for start, end in (
            ((left, top), (right, top)),
            ((left, bottom), (right, bottom)),
            ((left, top), (left, bottom)),
            ((right, top), (right, bottom)),
        ):
            canvas.line(start, end, thin, dark, where)
