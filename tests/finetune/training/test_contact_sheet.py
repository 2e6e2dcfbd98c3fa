"""The picture of a first batch: what the network will see."""

import numpy as np
import pytest
from PIL import Image

from rtool.cli.main import run
from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.loading import TrainingPixels
from rtool.finetune.training.contact_sheet import draw_batch


@pytest.mark.parametrize(("order", "mean"), [("rgb", (200.0, 100.0, 0.0)), ("bgr", (0.0, 100.0, 200.0))])
def test_what_is_padded_has_the_mean_colour_in_the_order_of_the_picture(order, mean):
    dataset = open_dataset("synthetic-faces:identities=4,images=2,size=96x96")
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-"},
            "losses": [{"kind": "arcface"}],
            "data": {"train": "-", "batch": 8},
            "augment": {"pad_crop": 20, "flip": 0},
        }
    )
    black = TrainingPixels(dataset, np.asarray, np.zeros((8, 96, 96, 3), np.uint8))
    sheet = np.asarray(draw_batch(config, black, Preprocessing(96, 96, mean=mean, channel_order=order), ranks=1))
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert (200, 100, 0) in colours
    assert (0, 100, 200) not in colours


def test_a_place_that_cannot_be_written_is_named(write_recipe, capsys):
    assert run(["finetune", str(write_recipe()), "--show-batch", "/proc/sheet.png"]) == 2
    printed = capsys.readouterr().err
    assert "/proc/sheet.png: cannot be written" in printed
    assert "Traceback" not in printed


def test_the_batch_of_several_processes_is_drawn_as_they_plan_it(write_recipe, tmp_path):
    one_identity_each = ["data.sampler=pk", "data.batch=4", "data.images_per_identity=4"]
    command = ["finetune", str(write_recipe()), *one_identity_each, "-q", "--show-batch", str(tmp_path / "sheet.png")]
    assert run(command) == 2
    assert run([*command, "--nproc", "2"]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * (48 + 2), 2 * (96 + 12 + 2))  # 8 images of 32x16, three times as large
