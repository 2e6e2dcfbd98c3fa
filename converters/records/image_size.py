"""Check that a preprocessing produces images of the size that the model expects."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import InputError
from .preprocessing import Preprocessing
from .record import Dim, TensorSpec

__all__ = ["check_image_size", "image_shape", "listed"]


def image_shape(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """The shape of one preprocessed image without the batch axis: (C, H, W), or (H, W, C) when layout is nhwc."""
    size = (preprocessing.height, preprocessing.width)
    return (preprocessing.channels, *size) if preprocessing.layout == "nchw" else (*size, preprocessing.channels)


def check_image_size(label: str, inputs: Sequence[TensorSpec], preprocessing: Preprocessing | None) -> None:
    """Compare the preprocessing with the model's image input; a model without exactly one 4-d input passes.

    Raises:
        InputError: the sizes differ; the message gives both.
    """
    images = [spec for spec in inputs if len(spec.shape) == 4]
    if preprocessing is None or len(images) != 1:
        return
    spec, wanted = images[0], image_shape(preprocessing)
    if any(isinstance(size, int) and size != want for size, want in zip(spec.shape[1:], wanted, strict=True)):
        raise InputError(
            f"{label}: input {spec.name!r} is {listed(spec.shape)}, its preprocessing makes "
            f"{listed(('batch', *wanted))}; give the right one with --preprocessing"
        )


def listed(shape: Sequence[Dim]) -> str:
    """A shape in words; an unknown size is `?`.

    >>> listed(("batch", 3, 256, None))
    'batch x 3 x 256 x ?'
    """
    return " x ".join("?" if size is None else str(size) for size in shape)
