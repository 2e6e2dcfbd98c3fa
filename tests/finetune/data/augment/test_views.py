"""One augmented image as models of several sizes see it."""

import numpy as np
from PIL import Image

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.data.augment.views import lay_out_views

RGB = Preprocessing(32, 16)
GREY = Preprocessing(16, 16, mean=(127.5,), std=(127.5,), channel_order="grey")


def test_models_of_one_size_share_the_pixels_and_need_no_views():
    assert lay_out_views(RGB, [Preprocessing(32, 16, mean=(0.0,) * 3, channel_order="bgr")]) == (None, (0,))


def test_a_model_of_the_canvas_size_sees_the_augmented_pixels_and_others_their_own_resize_of_them():
    large = Preprocessing(64, 48)
    views, numbers = lay_out_views(RGB, [large, RGB, GREY, large])
    assert numbers == (1, 0, 2, 1)
    assert (views.canvas.height, views.canvas.width, views.canvas.channels) == (64, 48, 3)
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    own, others = views.of(image)
    np.testing.assert_array_equal(own, RGB.resize(Image.fromarray(image)))
    np.testing.assert_array_equal(others[0], image)
    np.testing.assert_array_equal(others[1], GREY.resize(Image.fromarray(image)))


def test_a_grey_student_and_a_teacher_with_colours_share_a_canvas_with_colours():
    views, _ = lay_out_views(GREY, [RGB])
    assert (views.canvas.height, views.canvas.width, views.canvas.channels) == (32, 16, 3)
    assert views.own_view(np.zeros((32, 16, 3), np.uint8)).shape == (16, 16, 1)


def test_what_is_visible_is_seen_at_the_size_of_the_model_that_learns():
    own, teacher = Preprocessing(8, 8), Preprocessing(16, 16)
    views, _ = lay_out_views(own, [teacher])
    visible = np.full((16, 16), 255, dtype=np.uint8)
    visible[5:] = 0
    seen = views.own_visibility(visible)
    assert seen[:, 0].tolist() == [255, 255, 128, 0, 0, 0, 0, 0]  # area means of two rows
    alone, _ = lay_out_views(teacher, [own])
    assert alone.own_visibility(visible) is visible
