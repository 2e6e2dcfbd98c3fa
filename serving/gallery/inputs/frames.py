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


def read_frames(source: Path, wanted: set[int], first: int) -> Iterator[tuple[int, Image.Image]]:
    """The frames of some numbers, in their order.

    Args:
        source: A folder of images, named by frame number or in order, or a video.
        wanted: Numbers of frames.
        first: The number of the first frame of a video.

    Raises:
        InputError: the source does not exist, or the video cannot be decoded.
        DataError: a frame is missing or unreadable.
        PlatformError: a video without OpenCV.
    """
    if not source.exists():
        raise InputError(f"{source}: no such folder of frames or video")
    return _of_folder(source, wanted, first) if source.is_dir() else _of_video(source, wanted, first)


def _of_folder(folder: Path, wanted: set[int], first: int) -> Iterator[tuple[int, Image.Image]]:
    paths = list_images(folder).paths
    numbered = {number: path for path in paths if (number := last_number(path.name)) is not None}
    if len(numbered) < len(paths) or not wanted <= numbered.keys():
        numbered = dict(enumerate(paths, first))
    for number in sorted(wanted):
        if number not in numbered:
            raise DataError(f"{folder}: no frame {number}; it holds {len(paths)} images")
        try:
            yield number, decode_image(numbered[number])
        except UnreadableImageError as error:
            raise DataError(f"{numbered[number]}: this frame cannot be read ({error}); save it again") from error


def _of_video(path: Path, wanted: set[int], first: int) -> Iterator[tuple[int, Image.Image]]:
    try:
        import cv2
    except ImportError as error:
        raise PlatformError(
            f"{path}: a video needs OpenCV: pip install opencv-python-headless; or cut it into frames, "
            f"ffmpeg -i {path.name} frames/%06d.jpg, and give --frames frames"
        ) from error
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
