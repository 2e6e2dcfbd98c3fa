"""A contact sheet: the images of a batch as the network will see them, augmented, in a grid with their identities.

Where it is known which pixels show the face, that is drawn beside each image, white for visible.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...converters.records.preprocessing import Preprocessing
from ..config.config import FinetuneConfig
from ..data.loading import TrainingPixels, iterate_batches
from ..network.search_backbone import open_network
from ..processes.launching import count_processes
from .epoch import epoch_batches, epoch_samples
from .prepared_data import open_training_data, visible_files

__all__ = ["contact_sheet", "draw_batch", "draw_first_batch"]

_CAPTION = 12
_LEAST_HEIGHT = 96
_MOST_IMAGES = 64


def draw_first_batch(config: FinetuneConfig, *, nproc: int | Literal["auto"] = 1) -> Image.Image:
    """The first training batch of a run of `nproc` processes as an image, without training.

    Raises:
        RtoolError: the model or the data cannot be used.
    """
    ranks = count_processes(nproc, config.device)
    config = config.on_processes(ranks)
    preprocessing = open_network(config).preprocessing
    train, _ = open_training_data(config, preprocessing)
    pixels = TrainingPixels(train, preprocessing.resize, None, visible=visible_files(config, train))
    return draw_batch(config, pixels, preprocessing, ranks=ranks)


def draw_batch(
    config: FinetuneConfig, pixels: TrainingPixels, preprocessing: Preprocessing, *, ranks: int
) -> Image.Image:
    """The first batch of the first epoch, augmented, of all `ranks` processes together; at most 64 images are drawn.

    Raises:
        DataError: the data set cannot fill a batch, or too many of its images cannot be read.
    """
    plan = epoch_batches(config, pixels.dataset, ranks=ranks, epoch=0)[:1, :_MOST_IMAGES]
    samples = epoch_samples(config, pixels, preprocessing, epoch=0)
    batch = next(iterate_batches(samples, plan, slice(None), workers=0))
    shown = batch.pixels.numpy()
    if batch.visible is not None:
        share = (batch.visible[:, 0, :, :, None] * 255).round().byte().numpy()
        shown = np.concatenate([shown, np.repeat(share, shown.shape[3], axis=3)], axis=2)
    return contact_sheet(shown, [str(label) for label in batch.labels.tolist()])


def contact_sheet(pixels: NDArray[np.uint8], captions: list[str]) -> Image.Image:
    """Images uint8 [N, H, W, C] in a grid about as wide as high, small ones enlarged, each with its caption."""
    count, height, width, _ = pixels.shape
    zoom = max(1, math.ceil(_LEAST_HEIGHT / height))
    tall, wide = height * zoom, width * zoom
    columns = min(count, max(1, round(math.sqrt(count * tall / wide))))
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (columns * (wide + 2), rows * (tall + _CAPTION + 2)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        left, top = number % columns * (wide + 2), number // columns * (tall + _CAPTION + 2)
        picture = Image.fromarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)
        sheet.paste(picture.resize((wide, tall), Image.Resampling.NEAREST), (left, top + _CAPTION))
        draw.text((left + 2, top), caption, fill="black")
    return sheet
