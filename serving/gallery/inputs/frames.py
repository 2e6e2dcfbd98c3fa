"""The frames that a tracker saw: images in a folder, or a video where OpenCV is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ....errors import DataError, InputError, PlatformError
from ....finetune.data.formats.folder_listing import list_images
from ....finetune.data.image_files import UnreadableImageError, decode_image
from .folders import last_number

__all__ = ["read_frames"]


def read_frames(source: Path, wanted: set[int], first: int, notes: list[str]) -> Iterator[tuple[int, Image.Image]]:
    """The frames of some numbers, in their order.

    Args:
        source: A folder of images, named by frame number or in order, or a video.
        wanted: Numbers of frames.
        first: The number of the first frame of a video.
        notes: Gets a line where the images of a folder are counted, because their names have other numbers.

    Raises:
        InputError: the source does not exist, or the video cannot be decoded.
        DataError: a frame is missing or unreadable, or lies before the first.
        PlatformError: a video without OpenCV.
    """
    if not source.exists():
        raise InputError(f"{source}: no such folder of frames or video")
    return _of_folder(source, wanted, first, notes) if source.is_dir() else _of_video(source, wanted, first)


def _of_folder(folder: Path, wanted: set[int], first: int, notes: list[str]) -> Iterator[tuple[int, Image.Image]]:
    numbered = _numbered(folder, wanted, first, notes)
    for number in sorted(wanted):
        if number not in numbered:
            raise DataError(f"{folder}: no frame {number}; it holds {len(numbered)} images")
        try:
            yield number, decode_image(numbered[number])
        except UnreadableImageError as error:
            raise DataError(f"{numbered[number]}: this frame cannot be read ({error}); save it again") from error


def _numbered(folder: Path, wanted: set[int], first: int, notes: list[str]) -> dict[int, Path]:
    """The images by frame: by the last number in their names, or counted from `first` where those are others.

    Only names whose numbers follow each other, or tell nothing, may be counted: where frames are missing, every later
    one would be another.
    """
    paths = list_images(folder).paths
    numbers = [last_number(path.name) for path in paths]
    named = {number: path for number, path in zip(numbers, paths, strict=True) if number is not None}
    known = len(paths) - numbers.count(None)
    if wanted <= named.keys() and len(named) == known:
        return named
    if len(named) == known == len(paths) and named:
        low, high = min(named), max(named)
        if high - low + 1 > len(named):
            missing = min(wanted - named.keys())
            raise DataError(
                f"{folder}: no frame {missing}; the numbers in the names of its images go from {low} to {high} and "
                "some are missing; put the frames in, or number the images as the tracker did"
            )
        paths = [named[number] for number in sorted(named)]
    if paths:
        notes.append(f"{folder.name}: frames are counted in the order of names, {paths[0].name} is frame {first}")
    return dict(enumerate(paths, first))


def _of_video(path: Path, wanted: set[int], first: int) -> Iterator[tuple[int, Image.Image]]:
    try:
        import cv2
    except ImportError as error:
        raise PlatformError(
            f"{path}: a video needs OpenCV: pip install opencv-python-headless; or cut it into frames, "
            f"ffmpeg -i {path.name} frames/%06d.jpg, and give --frames frames"
        ) from error
    if min(wanted) < first:
        raise DataError(f"{path}: no frame {min(wanted)}; the frames of a video are counted from {first} in this text")
    video = cv2.VideoCapture(str(path))
    try:
        number, last = first, max(wanted)
        while number <= last:
            read, pixels = video.read()
            if not read:
                raise InputError(
                    f"{path}: the video cannot be decoded at frame {number} of {last}; convert it, or give its frames "
                    "as a folder"
                )
            if number in wanted:
                yield number, Image.fromarray(pixels[:, :, ::-1])  # OpenCV's pixels are BGR
            number += 1
    finally:
        video.release()
