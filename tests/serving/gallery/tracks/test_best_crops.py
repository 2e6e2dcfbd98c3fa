"""Quality of crops, their choice, and the vectors of tracks."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rtool.finetune.data.dataset import ArrayImages
from rtool.serving.gallery.inputs.crops import Crop, Crops, make_crops
from rtool.serving.gallery.tracks.quality import crop_quality
from rtool.serving.gallery.tracks.selection import best_crops, spread_choice
from rtool.serving.gallery.tracks.vectors import track_vectors


def crops_of(images: list[np.ndarray], **fields: list) -> Crops:
    found = [
        Crop(n, f"{n:03d}.jpg", **{"track": "a", "frame": n} | {name: values[n] for name, values in fields.items()})
        for n in range(len(images))
    ]
    return make_crops("crops", ArrayImages(np.stack(images)), found, timed=True)


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(30, 220, (140, 64, 3), dtype=np.uint8))


def test_blurred_copies_rank_by_their_sharpness_and_a_black_one_last():
    blurred = [np.asarray(picture().filter(ImageFilter.GaussianBlur(sigma))) for sigma in (0, 1, 3)]
    quality = crop_quality(crops_of([*blurred, np.zeros((140, 64, 3), np.uint8)])).values
    assert np.argsort(-quality).tolist() == [0, 1, 2, 3]


def test_the_score_is_the_weighted_sum_of_its_parts():
    # one crop: sharpness ranks 1; 140 of 256 px; 140/64 is 2.1875 high; mid grey; confidence .5
    image = np.full((140, 64, 3), 128, np.uint8)
    shape = 1 - abs(np.log(140 / 64 / 2.2)) / np.log(2)
    expected = 0.35 + 0.25 * 140 / 256 + 0.15 * shape + 0.10 + 0.15 * 0.5
    plain = crop_quality(crops_of([image], confidence=[0.5])).values
    assert plain == pytest.approx([expected], abs=1e-12)
    assert crop_quality(crops_of([image], confidence=[0.5], at_edge=[True])).values == pytest.approx([expected / 2])


def test_equal_crops_are_chosen_spread_over_time():
    chosen = spread_choice(np.arange(100), np.ones(100), 4)
    assert chosen[0] == 0
    assert np.diff([*chosen, 99]).max() <= 50
    assert spread_choice(np.arange(3), np.ones(3), 4).tolist() == [0, 1, 2]


def test_each_track_gets_its_best_crops():
    crops = crops_of([np.zeros((8, 8, 3), np.uint8)] * 8, track=["a", "b"] * 4)
    quality = np.array([0.1, 0.9, 0.1, 0.1, 0.2, 0.2, 0.8, 0.2])
    assert best_crops(crops, quality, 1).tolist() == [1, 6]


def test_centring_by_camera_takes_away_what_the_camera_adds():
    draw = np.random.default_rng(0)
    people = draw.normal(size=(20, 8))
    cameras = 2.0 * draw.normal(size=(2, 8))
    shown = [(person, camera) for person in range(20) for camera in (0, 1)]
    crops = crops_of(
        [np.zeros((8, 8, 3), np.uint8)] * 40,
        track=[f"t{n:02d}" for n in range(40)],
        camera=[f"c{camera}" for _, camera in shown],
    )
    embeddings = np.array([people[person] + cameras[camera] for person, camera in shown], dtype=np.float32)
    hits = {}
    for centre in ("none", "camera"):
        vectors = track_vectors(crops, np.arange(40), embeddings, np.ones(40), centre).tracks
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        cosines = vectors @ vectors.T - 2 * np.eye(40)
        hits[centre] = np.mean([shown[cosines[n].argmax()][0] == shown[n][0] for n in range(40)])
    assert hits["none"] < 0.3 < 0.9 < hits["camera"]


def test_a_track_is_the_unit_sum_of_its_weighted_crops():
    crops = crops_of([np.zeros((8, 8, 3), np.uint8)] * 5, track=["a", "a", "a", "a", "b"])
    embeddings = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    weights = np.array([0.2, 0.9, 0.4, 0.6, 1.0])
    found = track_vectors(crops, np.arange(5), embeddings, weights, "camera")
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    total = (unit[:4] * weights[:4, None]).sum(axis=0)
    assert found.tracks[0] == pytest.approx(total / np.linalg.norm(total), abs=1e-6)
    assert found.halved.tolist() == [0]
    first = (unit[:2] * weights[:2, None]).sum(axis=0)
    assert found.halves[0, 0] == pytest.approx(first / np.linalg.norm(first), abs=1e-6)
    assert found.note.startswith("none: 2 tracks")
