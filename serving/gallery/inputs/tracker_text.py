"""The text that trackers write, as boxes in pixels.

    MOT, ByteTrack, BoT-SORT    frame,id,left,top,width,height,conf,-1,-1,-1      frames from 1
    BoxMOT, MOT ground truth    frame,id,left,top,width,height,1,class,conf      frames from 1
    BoxMOT, older               frame id left top width height conf class -1     frames from 1
    KITTI                       frame id type trunc occ alpha left top right bottom ...   frames from 0
    Ultralytics save_txt        a folder, one file per frame: class cx cy w h [conf] id, relative to the frame

The separator, a word in the third column, and which of columns 7 to 9 are confidences distinguish the forms.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ....errors import DataError, InputError

__all__ = ["Box", "TrackerText", "read_tracker"]

_PEDESTRIANS = ("pedestrian", "person", "person_sitting")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
_MOST = 1e15
"""No frame, id or pixel lies beyond; sums of such numbers are exact enough, and finite."""


@dataclass(frozen=True)
class Box:
    """One box of one track; corners in pixels, or shares of the frame where the text is relative."""

    frame: int
    track: str
    left: float
    top: float
    right: float
    bottom: float
    confidence: float


@dataclass(frozen=True)
class TrackerText:
    """The boxes of persons in a tracker's text."""

    boxes: tuple[Box, ...]
    form: str
    """What the text was taken for."""
    first_frame: int
    """The number of a video's first frame in this form."""
    relative: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    box: Box
    kind: str
    """The class as it is written; empty where there is none."""


def read_tracker(path: Path) -> TrackerText:
    """Read a tracker's text file, or Ultralytics' folder of label files.

    Raises:
        InputError: nothing is there, or it cannot be read.
        DataError: a line has another form, or no box of a person is left.
    """
    if path.is_dir():
        rows, form, first, relative = _ultralytics(path), "Ultralytics save_txt", 1, True
    else:
        lines = _lines(path)
        if not lines:
            raise DataError(f"{path}: is empty; expected frame,id,left,top,width,height,...")
        words = lines[0][1].split()
        relative = False
        if len(words) > 2 and all(map(_is_number, words[:2])) and not _is_number(words[2]):
            rows, form, first = [_kitti(path, *line) for line in lines], "KITTI", 0
        else:
            separator = "commas" if "," in lines[0][1] else "spaces"
            parsed = [_mot(path, *line) for line in lines]
            forms = Counter(name for _, name in parsed)
            rows, form, first = [row for row, _ in parsed], f"{forms.most_common(1)[0][0]}, {separator}", 1
    return _of_persons(path, rows, form, first, relative)


def _of_persons(path: Path, rows: Sequence[_Row], form: str, first: int, relative: bool) -> TrackerText:
    notes = [f"{path.name}: read as {form}, frames from {first}"]
    kinds = Counter(row.kind for row in rows)
    wanted = _person_classes(set(kinds))
    others = sum(count for kind, count in kinds.items() if kind not in wanted)
    nobody = sum(row.box.track.startswith("-") for row in rows if row.kind in wanted)
    boxes = [row.box for row in rows if row.kind in wanted and not row.box.track.startswith("-")]
    full = [box for box in boxes if box.right > box.left and box.bottom > box.top]
    counts = (
        (others, "of other classes than person"),
        (nobody, "with ids below 0"),
        (len(boxes) - len(full), "of no area"),
    )
    notes += [f"{count} boxes {what} left out" for count, what in counts if count]
    if not full:
        raise DataError(f"{path}: no box of a person is left ({'; '.join(notes)})")
    return TrackerText(tuple(full), form, first, relative, tuple(notes))


def _person_classes(kinds: set[str]) -> set[str]:
    """Classes that are persons: a word for it, the only one there is, 0 as in COCO, else 1 as in MOT."""
    words = {kind for kind in kinds if kind.lower() in _PEDESTRIANS}
    if words or not all(_is_number(kind) or kind == "" for kind in kinds):
        return words
    if len(kinds) == 1:
        return kinds
    return {kind for kind in kinds if kind == ""} | ({"0"} if "0" in kinds else {"1"})


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected a tracker's text") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and abs(float(text)) <= _MOST


def _numbers(path: Path, line: int, words: Sequence[str], least: int, form: str) -> list[float]:
    if len(words) < least or not all(map(_is_number, words)):
        header = "; remove the line if it is a header or a comment" if not any(map(_is_number, words)) else ""
        raise DataError(f"{path}: line {line}: expected {form}, got '{' '.join(words)[:80]}'{header}")
    return [float(word) for word in words]


def _mot(path: Path, line: int, text: str) -> tuple[_Row, str]:
    words = [word.strip() for word in (text.removesuffix(",").split(",") if "," in text else text.split())]
    values = _numbers(path, line, words, 6, "frame,id,left,top,width,height,...")
    frame, track, left, top, width, height = values[:6]
    rest = [*values[6:9], -1.0, -1.0, -1.0][:3]
    kind, confidence, form = "", rest[0], "MOT"
    if rest[1] >= 0 and 0 <= rest[2] <= 1:  # flag, class, confidence
        kind, confidence, form = str(int(rest[1])), rest[2], "BoxMOT"
    elif rest[1] >= 0:
        kind, form = str(int(rest[1])), "BoxMOT, older"
    if not frame.is_integer() or not track.is_integer():
        raise DataError(f"{path}: line {line}: frame and id must be whole numbers, got {words[0]} and {words[1]}")
    return _Row(_box(frame, track, left, top, left + width, top + height, confidence), kind), form


def _kitti(path: Path, line: int, text: str) -> _Row:
    words = text.split()
    if len(words) < 10:
        raise DataError(f"{path}: line {line}: expected frame id type trunc occ alpha left top right bottom ...")
    frame, track, *_, left, top, right, bottom = _numbers(
        path, line, [*words[:2], *words[6:10]], 6, "frame id type trunc occ alpha left top right bottom"
    )
    score = float(words[17]) if len(words) > 17 and _is_number(words[17]) else math.nan
    return _Row(_box(frame, track, left, top, right, bottom, score), words[2])


def _box(frame: float, track: float, left: float, top: float, right: float, bottom: float, confidence: float) -> Box:
    known = confidence if 0 <= confidence <= 1 else math.nan
    return Box(int(frame), str(int(track)), left, top, right, bottom, known)


def _ultralytics(folder: Path) -> list[_Row]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise DataError(f"{folder}: no .txt files; expected Ultralytics' labels, one file per frame")
    rows = []
    for file in files:
        found = re.findall(r"\d+", file.stem)
        if not found:
            raise DataError(f"{file}: its name has no frame number; move it elsewhere if it holds no labels")
        for line, text in _lines(file):
            words = text.split()
            values = _numbers(file, line, words, 5, "class cx cy w h [conf] id")
            if len(values) not in (6, 7) or not values[-1].is_integer():
                raise DataError(f"{file}: line {line}: has no track id; save with yolo track save_txt=True")
            kind, cx, cy, width, height = values[:5]
            confidence = values[5] if len(values) == 7 else math.nan
            box = _box(
                int(found[-1]), values[-1], cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2, confidence
            )
            rows.append(_Row(box, str(int(kind))))
    return rows
