"""The preprocessing of a model reference: its own, or the usual one for the shape of its input.

A bare ONNX file from elsewhere does not say how its images are prepared. Square inputs are aligned faces by custom,
taller ones pedestrian crops; the choice is reported, and can be set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ...converters.records.preprocessing import ARCFACE, IMAGENET, Preprocessing
from ...converters.records.record import TensorSpec
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
    """The preprocessing for `model`: its `own`, else by `name`, else by the input's shape; at `size` when given.

    Raises:
        InputError: the size is unknown, or is not the one the model is fixed to.
    """
    fixed = _input_size(inputs)
    if size is not None and fixed is not None and size != fixed:
        raise InputError(
            f"{model}: takes images of {fixed[0]}x{fixed[1]}, got size {size[0]}x{size[1]}; leave the size out"
        )
    height_width = size or fixed or (None if own is None else (own.height, own.width))
    if height_width is None:
        raise InputError(
            f"{model}: does not say the size of its images; give one, such as --size 256x128, "
            "or model.size=[256, 128] in a configuration"
        )
    height, width = height_width
    if own is not None and name == "auto":
        return replace(own, height=height, width=width)
    if name == "auto":
        name = "arcface" if height == width else "imagenet"
    return replace(_NAMED[name], height=height, width=width)


def _input_size(inputs: Sequence[TensorSpec]) -> tuple[int, int] | None:
    """Height and width of a fixed image input: NCHW, or NHWC as models take it that embed their preprocessing."""
    if not inputs or len(inputs[0].shape) != 4:
        return None
    _, second, third, fourth = inputs[0].shape
    channels_last = fourth in _CHANNELS and second not in _CHANNELS
    height, width = (second, third) if channels_last else (third, fourth)
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None
