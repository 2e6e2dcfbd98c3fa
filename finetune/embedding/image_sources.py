"""Images to embed, without labels: a folder of any layout, one image file, a manifest, or any data set.

Of a folder every image below it is taken, whatever its sub-folders mean; of a manifest the column `path` alone. What
has no image files (records, archives, pairs, generators) is opened as `evaluate` opens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError, InputError
from ..data.dataset import ImageSource
from ..data.formats.folder_listing import list_images
from ..data.formats.manifest import listed_paths
from ..data.formats.pair_lists import is_pair_csv
from ..data.formats.sources import open_dataset
from ..data.image_files import FileImages, printable
from ..data.image_formats import image_suffixes

__all__ = ["NamedImages", "open_images"]


@dataclass(frozen=True)
class NamedImages:
    """Images, and a name for each."""

    name: str
    images: ImageSource
    names: Sequence[str]
    notes: tuple[str, ...] = ()
    """What was left out and why."""

    def __len__(self) -> int:
        return len(self.images)


def open_images(spec: str | Path) -> NamedImages:
    """Open the images of a folder, file or generator, in the order of their names or of the file; none is decoded.

    Raises:
        InputError: nothing of that name.
        DataError: there is no image, or the file is damaged.
    """
    path = Path(spec).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except ValueError as error:
        raise InputError(f"{str(spec)!r}: no file can have this name ({error}); check the path") from error
    if is_folder and not (path / "train.rec").is_file():
        listing = list_images(path)
        shards = sorted(path.glob("*.tar"))
        if listing.paths and not shards:
            return _of_files(path, listing.paths, [printable(name) for name in listing.names], listing.notes())
        if not shards:
            found = "; ".join(listing.notes())
            raise DataError(f"{path}: holds no images{f' ({found})' if found else ''}; give a folder with images in it")
    if is_file and path.suffix.lower() in image_suffixes():
        return _of_files(path, [path], [printable(path.name)])
    if is_file and (path.suffix == ".jsonl" or (path.suffix == ".csv" and not is_pair_csv(path))):
        listed, notes = listed_paths(path)
        return _of_files(path, [path.parent / name for name in listed], [printable(name) for name in listed], notes)
    dataset = open_dataset(spec, "test")
    return NamedImages(dataset.name, dataset.images, dataset.names, dataset.notes)


def _of_files(name: Path, paths: Sequence[Path], names: Sequence[str], notes: tuple[str, ...] = ()) -> NamedImages:
    return NamedImages(printable(name), FileImages(tuple(paths)), tuple(names), notes)
