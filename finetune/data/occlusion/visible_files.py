"""Which pixels show the face, in files: `NAME_mask.png` for the image NAME, 255 visible and 0 hidden.

A file lies in the mask folder where its image lies in the data set, `IDENTITY/NAME_mask.png` for `IDENTITY/NAME.jpg`,
or directly in the folder where one image alone has that name.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ....errors import DataError, InputError
from ..dataset import Dataset
from ..image_files import UnreadableImageError, decode_image, printable

__all__ = ["VisibleFiles", "open_visible_files", "without_masks"]

_ENDING = "_mask.png"
_SHAPE_TOLERANCE = 0.02
"""How far the ratio of a mask's height and width may be from its image's, for rounded sizes."""


@dataclass(frozen=True)
class VisibleFiles:
    """The mask file of each image of a data set, or None."""

    paths: tuple[Path | None, ...]

    def read(self, index: int, height: int, width: int) -> NDArray[np.uint8]:
        """What is visible of image `index` at a size in pixels, uint8 [H, W]; all of it without a file.

        Raises:
            DataError: the file cannot be read.
        """
        path = self.paths[index]
        if path is None:
            return np.full((height, width), 255, dtype=np.uint8)
        image = _decoded(path)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.uint8)

    def __str__(self) -> str:
        """How many images have one, for logs."""
        count = sum(path is not None for path in self.paths)
        return f"{count} of {len(self.paths)} images have a mask in data.visible; the others count as wholly visible"


def open_visible_files(folder: Path, dataset: Dataset) -> VisibleFiles:
    """Find the mask of each image of `dataset`; the first one found is compared with its image.

    Raises:
        InputError: there is no such folder.
        DataError: no image has a mask, a mask may belong to several images, or has another shape than its image.
    """
    if not folder.is_dir():
        raise InputError(f"data.visible: no such folder: {folder}")
    found = {
        str(PurePosixPath(Path(where).relative_to(folder) / name)): Path(where) / name
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(_ENDING)
    }
    stems = [str(PurePosixPath(name).with_suffix("")) for name in dataset.names]
    alike = Counter(PurePosixPath(stem).name for stem in stems)
    paths: list[Path | None] = []
    for stem in stems:
        last = PurePosixPath(stem).name
        path = found.get(f"{stem}{_ENDING}")
        if path is None and (path := found.get(f"{last}{_ENDING}")) is not None and alike[last] > 1:
            raise DataError(
                f"data.visible: {path} may be the mask of {alike[last]} images named {last}; put masks into "
                f"sub-folders as their images lie, such as {folder / f'{stem}{_ENDING}'}"
            )
        paths.append(path)
    first = next((number for number, path in enumerate(paths) if path is not None), None)
    if first is None:
        held = f"it holds {len(found)} files named *{_ENDING}" if found else f"it holds no file named *{_ENDING}"
        raise DataError(
            f"data.visible: {folder} has no mask for any of the {len(dataset)} images of {dataset.name} ({held}); the "
            f"mask of {printable(dataset.names[0])} would be {printable(folder / f'{stems[0]}{_ENDING}')}"
        )
    _compare_shapes(dataset, first, paths[first] or folder)
    return VisibleFiles(tuple(paths))


def without_masks(dataset: Dataset) -> Dataset:
    """The images but for masks that lie beside the images they belong to, and a note on these."""
    stems = {str(PurePosixPath(name).with_suffix("")) for name in dataset.names if not name.endswith(_ENDING)}
    kept = [not (name.endswith(_ENDING) and name.removesuffix(_ENDING) in stems) for name in dataset.names]
    if all(kept):
        return dataset
    note = f"{kept.count(False)} masks of data.visible left out of the training images"
    return replace(dataset.subset(np.flatnonzero(kept)), notes=(*dataset.notes, note))


def _compare_shapes(dataset: Dataset, index: int, path: Path) -> None:
    try:
        width, height = dataset.images[index].size
    except UnreadableImageError:
        return  # the run counts and names it
    wide, tall = _decoded(path).size
    if abs(tall * width / (wide * height) - 1) > _SHAPE_TOLERANCE:
        raise DataError(
            f"data.visible: {path} has {tall} x {wide} pixels (height x width) and its image {dataset.names[index]} "
            f"{height} x {width}; a mask covers the whole image"
        )


def _decoded(path: Path) -> Image.Image:
    """A mask as one byte per pixel."""
    try:
        return decode_image(path).convert("L")
    except UnreadableImageError as error:
        raise DataError(f"data.visible: {path} cannot be read as an image; repair or remove it ({error})") from error
