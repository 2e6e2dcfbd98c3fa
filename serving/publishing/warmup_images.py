"""Warm-up from real images: `rtool deploy --warmup crops/`.

The images are prepared as the model states it: resized, and normalised unless the graph takes uint8 pixels and does
that itself. A server that warms up with them meets the value ranges of its work, and the outputs that are compared are
those of real images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.preprocessing.decision import PreprocessingDecision
from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.nonsense import IMAGES
from ...errors import InputError
from ...finetune.data.formats.folder_listing import list_images
from ..repository.graph_signature import GraphSignature, GraphTensor

__all__ = ["image_examples"]


def image_examples(
    folder: Path, signature: GraphSignature, found: PreprocessingDecision | str
) -> dict[str, NDArray[Any]]:
    """The first images below `folder`, in the order of their names, as the model's input [N, ...] by its name.

    N is the fixed batch, and at least 8, so that outputs which do not depend on the image are noticed.

    Raises:
        InputError: the model has several inputs, its preprocessing is not known, there are too few images, or one
            cannot be read.
    """
    if len(signature.inputs) != 1:
        names = ", ".join(tensor.name for tensor in signature.inputs)
        raise InputError(f"{folder}: images warm up a model with one input, this one has {names}; give a .npz file")
    if isinstance(found, str):
        raise InputError(f"{folder}: images cannot be prepared: {found}")
    (tensor,), rows = signature.inputs, max(IMAGES, signature.batch or 1)
    paths = list_images(folder).paths
    if len(paths) < rows:
        raise InputError(f"{folder}: warm-up needs {rows} images, there are {len(paths)}")
    pixels = np.stack([_pixels(path, found.preprocessing) for path in paths[:rows]])
    return {tensor.name: _as_input(pixels, tensor, found.preprocessing)}


def _pixels(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return preprocessing.resize(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: this image cannot be read ({error}); remove it, or give other images") from error


def _as_input(pixels: NDArray[np.uint8], tensor: GraphTensor, preprocessing: Preprocessing) -> NDArray[Any]:
    """Pixels [N, H, W, C] as the graph takes them: float in its layout, or uint8."""
    if tensor.dtype != np.uint8:
        return preprocessing.normalise(pixels).astype(tensor.dtype)
    ordered = pixels[..., ::-1] if preprocessing.channel_order == "bgr" else pixels
    channels_last = tensor.dims[-1] == preprocessing.channels
    return np.ascontiguousarray(ordered if channels_last else ordered.transpose(0, 3, 1, 2))
