"""Crops cut out of frames at the boxes of a tracker, written once as files, each frame decoded once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ....errors import DataError
from ....finetune.data.image_files import FileImages
from .crops import Crop, Crops, make_crops
from .frames import read_frames
from .tracker_text import Box, TrackerText, read_tracker
from .tracklets import read_tracklets

__all__ = ["tracked_crops"]


def tracked_crops(tracks: Path, frames: Path, work: Path) -> Crops:
    """Cut out the boxes of a tracker's text into `work/crops/TRACK/FRAME.jpg`.

    Boxes are clipped to the frame; those outside of it are counted and left out. The paths of the crops are relative to
    `work`, which is renamed when it is whole.

    Raises:
        InputError: a file does not exist or cannot be decoded.
        DataError: a line or frame is wrong, or no box is left.
    """
    text = read_tracklets(tracks) if tracks.suffix == ".npz" else read_tracker(tracks)
    by_frame: dict[int, list[Box]] = defaultdict(list)
    for box in text.boxes:
        by_frame[box.frame].append(box)
    cut = _Cutting(work)
    notes = list(text.notes)
    for number, image in read_frames(frames, set(by_frame), text.first_frame, notes):
        cut.frame(image, by_frame[number], text)
    if cut.outside:
        notes.append(f"{cut.outside} boxes outside of the frame left out")
    if cut.twice:
        notes.append(f"{cut.twice} boxes left out: their track has another box in the frame")
    if not cut.crops:
        raise DataError(f"{tracks}: every box lies outside of the frames; are these frames of the same video and size?")
    images = FileImages(tuple(work / path for path in cut.paths))
    return make_crops(tracks.name, images, cut.crops, timed=True, notes=notes)


class _Cutting:
    """The crops cut out so far."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.crops: list[Crop] = []
        self.paths: list[Path] = []
        self.outside = self.twice = 0

    def frame(self, image: Image.Image, boxes: Iterable[Box], text: TrackerText) -> None:
        """Cut out the boxes of one frame."""
        seen: set[str] = set()
        for box in boxes:
            placed = _in_pixels(box, image) if text.relative else box
            left, top = max(0, round(placed.left)), max(0, round(placed.top))
            right, bottom = min(image.width, round(placed.right)), min(image.height, round(placed.bottom))
            if right <= left or bottom <= top:
                self.outside += 1
                continue
            if box.track in seen:
                self.twice += 1
                continue
            seen.add(box.track)
            path = Path("crops") / box.track / f"{box.frame:08d}.jpg"
            (self.work / path.parent).mkdir(parents=True, exist_ok=True)
            crop = image.crop((left, top, right, bottom)).convert("RGB")
            crop.save(self.work / path, format="JPEG", quality=95, subsampling=0)
            at_edge = left == 0 or top == 0 or right == image.width or bottom == image.height
            self.crops.append(Crop(len(self.crops), str(path), box.track, "", box.frame, box.confidence, at_edge, path))
            self.paths.append(path)


def _in_pixels(box: Box, image: Image.Image) -> Box:
    return replace(
        box,
        left=box.left * image.width,
        top=box.top * image.height,
        right=box.right * image.width,
        bottom=box.bottom * image.height,
    )
