"""Crops from what a command line gives: `open_crops`.

synthetic-people:identities=60,...      a generator: one track per identity and camera
DIR/TRACK/*.jpg                         one folder per track
DIR/CAMERA/TRACK/*.jpg                  one folder per camera, in it one per track
DIR/0002_c1s1_000451_03.jpg             names of Market-1501: one track per identity, camera and sequence
DIR/crops/person/ID/FRAME.jpg           crops of BoxMOT; DIR/crops/person/*.jpg of Ultralytics has no tracks
FILE.csv                                path,track[,camera][,frame][,confidence]
tracks.txt and frames                   the text of a tracker, see `tracker_text`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ....errors import InputError
from ....finetune.data.formats.sources import open_dataset
from .crops import Crops
from .folders import folder_crops
from .generated import generated_crops
from .track_manifest import manifest_crops

__all__ = ["CropSource", "open_crops"]

_GENERATORS = ("synthetic-people", "synthetic-faces")


@dataclass(frozen=True)
class CropSource:
    """Where crops come from."""

    spec: str
    frames: Path | None = None
    """Folder of frames or video of a tracker's text."""

    @property
    def is_generator(self) -> bool:
        """Whether it is drawn."""
        return self.spec.partition(":")[0] in _GENERATORS

    @property
    def folder(self) -> Path | None:
        """The folder of the crops, where they lie in one."""
        path = Path(self.spec).expanduser()
        return path if not self.is_generator and path.is_dir() else None


def open_crops(source: CropSource, work: Path) -> Crops:
    """Open crops; images are decoded when they are needed, but for those cut out of frames.

    Args:
        source: Where from.
        work: A folder to write crops into that are cut out of frames, as `crops/`.

    Raises:
        InputError: nothing of that name, or of a kind that is not read.
        DataError: the layout is wrong, or there is no crop.
    """
    if source.is_generator:
        return generated_crops(open_dataset(source.spec))
    path = Path(source.spec).expanduser()
    if not path.exists():
        raise InputError(
            f"{source.spec}: no such file or folder; expected crops in TRACK/ or CAMERA/TRACK/, a manifest with "
            f"path,track, a tracker's text with --frames, or {_GENERATORS[0]}:key=value,..."
        )
    if source.frames is not None:
        from .tracked import tracked_crops

        return tracked_crops(path, source.frames, work)
    if path.is_dir():
        return folder_crops(path)
    if path.suffix == ".csv":
        return manifest_crops(path)
    raise InputError(f"{path}: expected a folder of crops or a .csv manifest; a tracker's text needs --frames DIR")
