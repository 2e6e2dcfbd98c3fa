"""Whether a preprocessing makes images of the size the model takes; it is stored with it, and every reader follows."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import InputError
from .preprocessing import Preprocessing
from .record import Dim, TensorSpec

__all__ = ["check_image_size", "image_shape", "listed"]


def image_shape(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """The shape of one image as the network takes it."""
    size = (preprocessing.height, preprocessing.width)
    return (preprocessing.channels, *size) if preprocessing.layout == "nchw" else (*size, preprocessing.channels)


def check_image_size(label: str, inputs: Sequence[TensorSpec], preprocessing: Preprocessing | None) -> None:
    """Hold the preprocessing to the one image input of a model, where it has one.

    Raises:
        InputError: the sizes differ, with both.
    """
    if preprocessing is None or len(inputs) != 1 or len(inputs[0].shape) != 4:
        return
    spec, wanted = inputs[0], image_shape(preprocessing)
    if any(isinstance(size, int) and size != want for size, want in zip(spec.shape[1:], wanted, strict=True)):
        raise InputError(
            f"{label}: input {spec.name!r} is {listed(spec.shape)}, its preprocessing makes "
            f"{listed(('batch', *wanted))}; give the right one with --preprocessing"
        )


def listed(shape: Sequence[Dim]) -> str:
    """`batch x 3 x 256 x 128`."""
    return " x ".join("?" if size is None else str(size) for size in shape)
