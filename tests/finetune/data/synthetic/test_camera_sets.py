"""Camera sets: a domain of their own for people and faces, and no other people or faces."""

import numpy as np

from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.synthetic.camera_sets import draw_cameras

FACES = "synthetic-faces:identities=6,images=5,seed=3,size=32x32"


def pixels(spec: str) -> np.ndarray:
    return open_dataset(spec).images.pixels.astype(float)


def test_faces_of_a_camera_set_are_the_same_faces_in_other_colours():
    """A camera changes light and colour and no shape: of one picture, the brightness keeps its order of places."""
    plain, first, second = (pixels(FACES + cameras) for cameras in ("", ",cameras=0", ",cameras=1"))
    np.testing.assert_array_equal(first, pixels(FACES + ",cameras=0"))
    for seen in (first, second):
        assert np.abs(seen - plain).mean() > 10
        rows = zip(plain.mean(axis=3).reshape(30, -1), seen.mean(axis=3).reshape(30, -1), strict=True)
        assert np.median([np.corrcoef(before, after)[0, 1] for before, after in rows]) > 0.9
    assert np.abs(first - second).mean() > 10


def test_the_cameras_of_a_set_are_nearer_to_each_other_than_to_those_of_another():
    sets = [draw_cameras(np.random.default_rng([seed, 2]), 6, shift=1.0).colour for seed in range(8)]
    within = np.mean([colours.std(axis=0).mean() for colours in sets])
    between = np.std([colours.mean(axis=0) for colours in sets], axis=0).mean()
    assert between > 2 * within
