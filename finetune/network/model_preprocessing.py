"""The preprocessing of a model reference: its own, or the usual one for the shape of its input.

An ONNX file from elsewhere does not state how its images are prepared. Square inputs usually are aligned faces, taller
ones pedestrian crops; the configuration or an option can choose otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ...converters.records.preprocessing import ARCFACE, IMAGENET, Preprocessing
from ...converters.records.record import TensorSpec
from ...converters.runtime.probes.open_sizes import image_index
from ...errors import InputError

__all__ = ["PreprocessingName", "choose_preprocessing"]

PreprocessingName = Literal["auto", "imagenet", "arcface"]

_CHANNELS = (1, 3)
_NAMED = {"imagenet": IMAGENET, "arcface": ARCFACE}


def choose_preprocessing(
    model: str,
    own: Preprocessing | None,
    inputs: Sequence[TensorSpec],
    *,
    name: PreprocessingName = "auto",
    size: tuple[int, int] | None = None,
) -> Preprocessing:
    """The preprocessing for a model.

    Args:
        model: Its name, for messages.
        own: The preprocessing stored with it, if any; used when `name` is "auto".
        inputs: Its inputs, of which one is the image.
        name: "imagenet", "arcface", or "auto": `own`, else arcface for square inputs and imagenet for others.
        size: Height and width in pixels; by default those of the input, else those of `own`.

    Raises:
        InputError: the size is unknown, or the model has a fixed input of another size.
    """
    fixed = _input_size(inputs)
    if size is not None and fixed is not None and size != fixed:
        raise InputError(
            f"{model}: has a fixed input of {fixed[0]}x{fixed[1]}, got size {size[0]}x{size[1]}; leave the size out"
        )
    height_width = size or fixed or (None if own is None else (own.height, own.width))
    if height_width is None:
        raise InputError(
            f"{model}: does not state the size of its images; give one, such as --size 256x128, "
            "or model.size=[256, 128] in a configuration"
        )
    height, width = height_width
    if own is not None and name == "auto":
        return replace(own, height=height, width=width)
    if name == "auto":
        name = "arcface" if height == width else "imagenet"
    return replace(_NAMED[name], height=height, width=width)


def _input_size(inputs: Sequence[TensorSpec]) -> tuple[int, int] | None:
    """Height and width of a fixed image input: NCHW, or NHWC in models that embed their preprocessing."""
    image = image_index(inputs) if len(inputs) > 1 else 0
    if not inputs or image is None or len(inputs[image].shape) != 4:
        return None
    _, second, third, fourth = inputs[image].shape
    channels_last = fourth in _CHANNELS and second not in _CHANNELS
    height, width = (second, third) if channels_last else (third, fourth)
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None
