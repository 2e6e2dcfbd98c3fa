"""Masks drawn on faces: where they lie, what they hide, and that what is visible follows every change of the image."""

import dataclasses

import numpy as np
import pytest

from rtool.errors import ConfigError
from rtool.finetune.config.config import AugmentConfig, FinetuneConfig
from rtool.finetune.data import augmentation
from rtool.finetune.data.augmentation import augment, sample_generator
from rtool.finetune.data.dataset import ArrayImages
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.joined import join_datasets
from rtool.finetune.data.loading import EpochSamples, TrainingPixels, iterate_batches
from rtool.finetune.data.occlusion import cover as covers
from rtool.finetune.data.occlusion.face_points import LANDMARK_PLACES, template_points
from rtool.finetune.data.occlusion.masks import draw_mask
from rtool.finetune.data.occlusion.shapes import SHAPES

TEMPLATE = template_points(112, 112)
GREY = np.full((112, 112, 3), 128, dtype=np.uint8)
FILL = (9.0, 8.0, 7.0)

# Mean visibility of 300 medical masks on aligned faces, means over 16 x 16 pixels, of an implementation of its own.
MEASURED = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1],
        [0.97, 0.99, 0.93, 0.86, 0.93, 0.99, 0.97],
        [0.94, 0.66, 0.22, 0.10, 0.22, 0.67, 0.94],
        [0.95, 0.38, 0, 0, 0, 0.38, 0.95],
        [0.94, 0.67, 0.07, 0.01, 0.07, 0.66, 0.94],
    ]
)


def visibilities(kind, count=300, image=GREY, points=TEMPLATE):
    drawn = [draw_mask(image, points, (kind,), sample_generator(1, 0, number)) for number in range(count)]
    return np.stack([visible for _, visible in drawn]) / 255


def test_medical_masks_hide_what_they_are_known_to_hide():
    visible = visibilities("medical")
    hidden = 1 - visible.mean((1, 2))
    assert abs(hidden.mean() - 0.236) < 0.01
    assert hidden.min() > 0.12
    assert hidden.max() < 0.40
    means = visible.reshape(-1, 7, 16, 7, 16).mean((0, 2, 4))
    assert np.abs(means - MEASURED).max() < 0.05
    assert np.abs(means - means[:, ::-1]).max() < 0.04  # three standard errors of 300


@pytest.mark.parametrize(
    ("kind", "hidden"),
    [("sunglasses", (0.04, 0.25)), ("scarf", (0.1, 0.6)), ("hand", (0.05, 0.5)), ("block", (0.09, 0.41))],
)
def test_other_kinds_hide_a_part_and_not_all(kind, hidden):
    shares = 1 - visibilities(kind, count=60).mean((1, 2))
    assert hidden[0] <= shares.min() <= shares.max() <= hidden[1]


def test_sunglasses_hide_the_eyes_and_a_mask_hides_the_mouth():
    eyes, mouth = (52, 38), (92, 56)
    assert visibilities("sunglasses", 60)[:, *eyes].mean() < 0.1
    assert visibilities("medical", 60)[:, *eyes].mean() == 1
    assert visibilities("medical", 60)[:, *mouth].mean() == 0
    assert visibilities("scarf", 60)[:, *mouth].mean() == 0


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_hidden_pixels_change_and_visible_ones_stay(kind, channels):
    image = np.random.default_rng(0).integers(0, 256, (112, 112, channels), dtype=np.uint8)
    before = image.copy()
    drawn, visible = draw_mask(image, TEMPLATE, (kind,), sample_generator(3, 0, 5))
    assert (image == before).all()
    assert (drawn.shape, drawn.dtype, visible.shape, visible.dtype) == (image.shape, np.uint8, (112, 112), np.uint8)
    assert (drawn[visible == 255] == image[visible == 255]).all()
    other = draw_mask(255 - image, TEMPLATE, (kind,), sample_generator(3, 0, 5))[0]
    assert (drawn[visible == 0] == other[visible == 0]).all()  # nothing of the image is left
    partly = (visible > 0) & (visible < 255)
    share = (visible / 255)[partly][:, None]
    colour = drawn[partly] - share * image[partly]
    np.testing.assert_allclose(colour, other[partly] - share * (255.0 - image[partly]), atol=1.01)


def test_opacity_is_the_share_of_a_pixel_that_is_filled():
    square = np.array([(2.25, 3.0), (6.0, 3.0), (6.0, 5.5), (2.25, 5.5)])
    cover = covers.Cover((square,), np.zeros(3, np.float32), "plain", np.zeros(2), np.eye(2))
    visible = 255 - covers.paint(np.full((8, 8, 3), 200, np.uint8), cover)[1].astype(float)
    assert visible[3, 3:6].tolist() == [255, 255, 255]
    assert abs(visible[3, 2] / 255 - 0.75) < 0.3  # three of four fine columns, and Pillow draws an edge as well
    assert visible[:3].sum() == 0
    assert visible[:, 7].sum() == 0


def test_faces_of_other_sizes_are_masked_alike():
    large, small = np.full((224, 224, 3), 99, np.uint8), np.full((56, 56, 3), 99, np.uint8)
    whole = [visibilities("medical", 20, image, TEMPLATE) for image in (GREY, large, small)]
    assert np.abs(whole[0] - whole[1].reshape(20, 112, 2, 112, 2).mean((2, 4))).mean() < 0.01
    assert np.abs(whole[2] - whole[0].reshape(20, 56, 2, 56, 2).mean((2, 4))).mean() < 0.02


def test_a_narrow_crop_is_the_middle_of_the_square_one():
    narrow = template_points(112, 96) * (96, 112)
    np.testing.assert_allclose(narrow, LANDMARK_PLACES - (8, 0), atol=1e-4)
    np.testing.assert_allclose(narrow[[0, 1, 2], 0], [30.2946, 65.5318, 48.0252], atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "given", "said"),
    [
        ((112, 92), None, "give the five points"),
        ((64, 64), [(9, 9), (1, 9), (5, 20), (2, 30), (8, 30)], "left eye left of the right"),
        ((64, 64), [(1, 9), (9, 9), (5, 70), (2, 30), (8, 30)], "within 64 x 64"),
        ((64, 64), [(1, 9), (9, 9), (5, 60), (2, 30), (8, 30)], "nose above the mouth"),
    ],
)
def test_points_that_cannot_be_a_face_are_refused(shape, given, said):
    with pytest.raises(ConfigError, match=said):
        template_points(*shape, given)


def test_drawn_faces_know_their_landmarks():
    faces = open_dataset("synthetic-faces:identities=4,images=4,size=112x112")
    assert faces.landmarks.shape == (16, 5, 2)
    for number in range(16):
        points = faces.landmarks[number] * 112
        x, y = points[3:].mean(axis=0)
        pixels = faces.images.pixels[number].astype(float)
        mouth = pixels[int(y), int(x)]
        cheek = pixels[int((y + points[2][1]) / 2), int(x)]
        assert points[0][0] < points[1][0]
        assert np.abs(mouth - cheek).sum() > 10  # the mouth is drawn in another colour than the skin
    assert (faces.subset(np.array([3, 1])).landmarks == faces.landmarks[[3, 1]]).all()


def test_joined_sets_keep_the_landmarks_that_are_known():
    faces = open_dataset("synthetic-faces:identities=2,images=2,size=16x16")
    plain = dataclasses.replace(faces, landmarks=None)
    joined = join_datasets({"a": faces, "b": plain})
    assert (joined.landmarks[:4] == faces.landmarks).all()
    assert np.isnan(joined.landmarks[4:]).all()
    assert join_datasets({"a": plain, "b": plain}).landmarks is None


# What is visible is drawn into the image itself, white for visible, and must look as the image after every change.
FOLLOWED = {
    "flip": {"flip": 1.0},
    "pad_crop": {"pad_crop": 9},
    "rotation": {"rotation": 30.0},
    "random_crop": {"random_crop": 1.0},
    "erasing": {"erasing": 1.0},
    "all": {"flip": 0.5, "pad_crop": 5, "rotation": 20.0, "random_crop": 0.5, "erasing": 0.5},
}


@pytest.mark.parametrize("changes", FOLLOWED.values(), ids=FOLLOWED)
def test_what_is_visible_follows_every_geometric_change(changes):
    visible = visibilities("medical", 1)[0]
    visible = np.round(visible * 255).astype(np.uint8)
    picture = np.repeat(visible[..., None], 3, axis=2)
    config = AugmentConfig(**{"flip": 0, **changes})
    for position in range(8):
        image, seen = augment(picture, config, (0.0,) * 3, sample_generator(0, 0, position), visible=visible)
        np.testing.assert_array_equal(image[..., 0], seen)
        alone, _ = augment(picture, config, (0.0,) * 3, sample_generator(0, 0, position))
        np.testing.assert_array_equal(alone, image)  # following draws nothing from the sample's generator


@pytest.mark.parametrize("policy", ["rand_augment", "aug_mix"])
def test_what_is_visible_follows_the_moves_of_a_policy_and_not_its_colours(policy, monkeypatch):
    from rtool.finetune.data.augment import image_operations, rand_augment

    visible = np.full((32, 32), 255, dtype=np.uint8)
    visible[20:] = 0
    picture = np.repeat(visible[..., None], 3, axis=2)
    config = AugmentConfig(flip=0, **{policy: 1.0})
    coloured = {
        name: lambda image, *_: image for name in image_operations.OPERATIONS if name not in image_operations.MOVES
    }
    monkeypatch.setattr(rand_augment, "OPERATIONS", image_operations.OPERATIONS)
    monkeypatch.setattr(image_operations, "OPERATIONS", {**image_operations.OPERATIONS, **coloured})
    moved = 0
    for position in range(20):
        image, seen = augment(picture, config, (0.0,) * 3, sample_generator(0, 0, position), visible=visible)
        np.testing.assert_array_equal(image[..., 0], seen)
        moved += (seen != visible).any()
    assert moved > 5


def test_what_is_pasted_over_a_face_is_hidden():
    config = AugmentConfig(flip=0, random_patch=1.0)
    picture = np.full((32, 32, 3), 255, dtype=np.uint8)
    black = np.zeros_like(picture)
    for position in range(10):
        rng = sample_generator(0, 0, position)
        image, seen = augment(
            picture, config, (0.0,) * 3, rng, other=lambda _: black, visible=np.full((32, 32), 255, np.uint8)
        )
        np.testing.assert_array_equal(image[..., 0], seen)
        assert (seen == 0).any()


def test_colours_blur_and_resolution_leave_what_is_visible():
    config = AugmentConfig(flip=0, low_resolution=1, photometric=1, colour=1, blur=1, grey=1, noise=1)
    visible = np.random.default_rng(0).integers(0, 256, (112, 112), dtype=np.uint8)
    image, seen = augment(GREY, config, FILL, sample_generator(0, 0, 0), visible=visible)
    assert (seen == visible).all()
    assert (image != GREY).any()


def test_mask_then_flip_is_flip_then_mirrored_mask():
    face = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    masked, visible = draw_mask(face, TEMPLATE, ("medical",), sample_generator(5, 0, 0))
    config = AugmentConfig(flip=1.0)
    image, seen = augment(masked, config, FILL, sample_generator(0, 0, 0), visible=visible)
    assert (image == masked[:, ::-1]).all()
    assert (seen == visible[:, ::-1]).all()


def batches(workers=0, first=0, **changes):
    dataset = open_dataset("synthetic-faces:identities=6,images=4,size=16x16")
    config = AugmentConfig(mask=0.5, mask_kinds=("medical", "block"), flip=0.5, pad_crop=2, rotation=10, **changes)
    samples = EpochSamples(TrainingPixels(dataset, np.asarray, None), config, FILL, 7, 0)
    plan = np.random.default_rng(0).permutation(24).reshape(3, 8)
    return list(iterate_batches(samples, plan, slice(None), workers, first=first))


def test_masks_are_alike_whoever_draws_them_and_wherever_a_run_resumes():
    whole = batches()
    for number, other in ((2, batches(first=2)[0]), *enumerate(batches(workers=2))):
        assert (other.pixels == whole[number].pixels).all()
        assert (other.visible == whole[number].visible).all()
    visible = whole[0].visible
    assert visible.dtype.is_floating_point
    assert list(visible.shape) == [8, 1, 16, 16]
    assert 0 <= visible.min() < 0.1
    assert visible.max() == 1


def test_without_masks_a_batch_says_nothing_of_what_is_visible():
    dataset = open_dataset("synthetic-faces:identities=6,images=4,size=16x16")
    samples = EpochSamples(TrainingPixels(dataset, np.asarray, None), AugmentConfig(), FILL, 7, 0)
    assert next(iterate_batches(samples, np.arange(8)[None], slice(None), 0)).visible is None


def test_points_given_by_the_configuration_go_before_the_generator(monkeypatch):
    asked = []

    def note(image, points, kinds, rng):
        asked.append(points)
        return draw_mask(image, points, kinds, rng)

    monkeypatch.setattr(augmentation, "draw_mask", note)
    dataset = open_dataset("synthetic-faces:identities=6,images=4,size=16x16")
    given = ((4.0, 6.0), (12.0, 6.0), (8.0, 9.0), (5.0, 12.0), (11.0, 12.0))
    points = template_points(16, 16, given)
    for config, expected in (
        (AugmentConfig(mask=1.0, mask_points=given), points),
        (AugmentConfig(mask=1.0), dataset.landmarks[3]),
    ):
        samples = EpochSamples(TrainingPixels(dataset, np.asarray, None), config, FILL, 7, 0, points)
        samples[0, 3]
        assert (asked.pop() == expected).all()
    unknown = dataclasses.replace(dataset, landmarks=np.full((24, 5, 2), np.nan, np.float32))
    EpochSamples(TrainingPixels(unknown, np.asarray, None), AugmentConfig(mask=1.0), FILL, 7, 0, points)[0, 3]
    assert (asked.pop() == points).all()


def test_images_of_an_unknown_crop_are_refused_before_training(tmp_path):
    from rtool.converters.records.preprocessing import Preprocessing
    from rtool.finetune.training.epoch import mask_points

    dataset = dataclasses.replace(
        open_dataset("synthetic-faces:identities=2,images=2,size=16x16"),
        images=ArrayImages(np.zeros((4, 16, 16, 3), np.uint8)),
        landmarks=None,
    )
    base = {"model": {"reference": "-"}, "data": {"train": "-"}, "losses": [{"kind": "arcface"}]}
    narrow = Preprocessing(112, 92)
    with pytest.raises(ConfigError, match=r"augment\.mask_points"):
        mask_points(FinetuneConfig.model_validate({**base, "augment": {"mask": 0.5}}), dataset, narrow)
    block = FinetuneConfig.model_validate({**base, "augment": {"mask": 0.5, "mask_kinds": ["block"]}})
    assert mask_points(block, dataset, narrow) is None
