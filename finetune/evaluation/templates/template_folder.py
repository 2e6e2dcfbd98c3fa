"""Template sets as files, in the layout that IJB-B and IJB-C are usually evaluated from.

    FOLDER/loose_crop/                    the images
    FOLDER/meta/X_face_tid_mid.txt        image, template, media: one line per image
    FOLDER/meta/X_template_pair_label.txt template, template, 1 for one person: the pairs of 1:1
    FOLDER/meta/X_name_5pts_score.txt     image, five landmarks (x y), detector score; without it images are taken as
                                          they are, with weight 1
    FOLDER/meta/X_1N_gallery_*.csv        TEMPLATE_ID, SUBJECT_ID: the galleries of 1:N
    FOLDER/meta/X_1N_probe_*.csv          likewise the probes

X is ijbb, ijbc or another name. A template is what is known of one person at one occasion; a media is a photograph or a
video, of which a template may hold several frames (Maze et al., "IARPA Janus Benchmark - C", 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ....errors import DataError
from ...data.dataset import UNKNOWN_CAMERA, Dataset, encode_identities
from ...data.formats.csv_columns import csv_rows
from ...data.image_files import FileImages, printable
from .face_alignment import align_face

__all__ = ["Subjects", "TemplateSet", "is_template_folder", "open_template_folder"]

Indices = NDArray[np.int64]

_SUFFIX = "_face_tid_mid.txt"
_ALIGNED = b"aligned face\0"
"""Begins what is no image file, so that nobody decodes it without aligning."""


@dataclass(frozen=True)
class Subjects:
    """Some templates and whom they show: two int64 [n], templates by number."""

    templates: Indices
    subjects: Indices


@dataclass(frozen=True)
class TemplateSet:
    """N images in T templates, and which of these are compared."""

    dataset: Dataset
    """The images."""
    template: Indices
    """Template of each image, int64 [N], 0 to T - 1."""
    media: Indices
    """Media of each image, int64 [N]."""
    weight: NDArray[np.float64]
    """Detector score of each image, [N]."""
    names: tuple[str, ...]
    """Of the templates, as the files have them."""
    pairs: Indices
    """int64 [P, 3]: template, template, 1 for one person; 1:1."""
    galleries: tuple[Subjects, ...]
    """The galleries of 1:N; none where the folder has none."""
    probes: Subjects | None

    def __str__(self) -> str:
        """What it holds, for logs."""
        held = f"{len(self.template)} images in {len(self.names)} templates, {len(self.pairs)} pairs"
        return held if self.probes is None else f"{held}, {len(self.galleries)} galleries"


@dataclass(frozen=True)
class _AlignedFaces:
    """The images of files, aligned by their landmarks float64 [N, 5, 2]."""

    files: FileImages
    landmarks: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image.Image:
        return align_face(self.files[index], self.landmarks[index])

    def stored(self, index: int) -> bytes:
        """The landmarks, then the bytes of the file: both make the image."""
        landmarks: bytes = self.landmarks[index].tobytes()
        return _ALIGNED + landmarks + self.files.stored(index)

    def decoded(self, index: int, stored: bytes) -> Image.Image:
        """The aligned face of what `stored` returned."""
        file = stored[len(_ALIGNED) + self.landmarks[index].nbytes :]
        return align_face(self.files.decoded(index, file), self.landmarks[index])


def is_template_folder(folder: Path) -> bool:
    """Whether a folder has the list of a template set."""
    return (folder / "meta").is_dir() and any((folder / "meta").glob(f"*{_SUFFIX}"))


def open_template_folder(folder: Path) -> TemplateSet:
    """Read the lists; no image is decoded.

    Raises:
        DataError: a list is missing or has another form, names a template or an image that is not there, or knows no
            pairs of one of both kinds.
    """
    meta = folder / "meta"
    lists = sorted(meta.glob(f"*{_SUFFIX}"))
    if len(lists) != 1:
        raise DataError(f"{meta}: {len(lists)} files *{_SUFFIX}; expected one template set")
    prefix = lists[0].name.removesuffix(_SUFFIX)
    rows = list(_rows(lists[0], 3))
    paths = tuple(folder / "loose_crop" / row[0] for row in rows)
    missing = next((number for number, path in enumerate(paths) if not path.is_file()), None)
    if missing is not None:
        raise DataError(f"{lists[0]}: line {missing + 1}: {printable(paths[missing])} does not exist")
    numbers: dict[str, int] = {}
    template = np.array([numbers.setdefault(row[1], len(numbers)) for row in rows], dtype=np.int64)
    files, landmarks = FileImages(paths), meta / f"{prefix}_name_5pts_score.txt"
    points, weight = _landmarks(landmarks, [row[0] for row in rows]) if landmarks.exists() else (None, None)
    probes = [_subjects(path, numbers) for path in sorted(meta.glob(f"{prefix}_1N_probe_*.csv"))]
    return TemplateSet(
        Dataset(
            name=printable(folder),
            images=files if points is None else _AlignedFaces(files, points),
            identities=encode_identities(template),
            cameras=np.full(len(rows), UNKNOWN_CAMERA, dtype=np.int64),
            names=tuple(row[0] for row in rows),
        ),
        template,
        encode_identities([row[2] for row in rows]),
        np.ones(len(rows)) if weight is None else weight,
        tuple(numbers),
        _pairs(meta / f"{prefix}_template_pair_label.txt", numbers),
        tuple(_subjects(path, numbers) for path in sorted(meta.glob(f"{prefix}_1N_gallery_*.csv"))) if probes else (),
        _joined(probes) if probes else None,
    )


def _rows(path: Path, count: int) -> Iterator[list[str]]:
    """The fields of each line."""
    if not path.is_file():
        raise DataError(f"{path}: does not exist; a template set needs it")
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                fields = line.split()
                if len(fields) != count:
                    raise DataError(f"{path}: line {number}: expected {count} fields, got {len(fields)}")
                yield fields
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason})") from error


def _landmarks(path: Path, names: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = []
    for number, fields in enumerate(_rows(path, 12), 1):
        if number > len(names) or fields[0] != names[number - 1]:
            expected = names[number - 1] if number <= len(names) else "no further line"
            raise DataError(f"{path}: line {number}: expected {expected}, as in the list of templates, got {fields[0]}")
        values.append([_number(path, number, field) for field in fields[1:]])
    if len(values) != len(names):
        raise DataError(f"{path}: {len(values)} lines for {len(names)} images")
    table = np.array(values)
    return table[:, :10].reshape(-1, 5, 2), table[:, 10]


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{path}: line {line}: expected a number, got '{text}'")
    return value


def _pairs(path: Path, numbers: dict[str, int]) -> Indices:
    pairs = []
    for line, (first, second, label) in enumerate(_rows(path, 3), 1):
        if label not in ("0", "1"):
            raise DataError(f"{path}: line {line}: expected 1 or 0, got '{label}'")
        pairs.append((_template(path, line, first, numbers), _template(path, line, second, numbers), int(label)))
    found = np.array(pairs, dtype=np.int64).reshape(-1, 3)
    same = int(found[:, 2].sum())
    if not same or same == len(found):
        raise DataError(f"{path}: {same} pairs of one person and {len(found) - same} of two; both are needed")
    return found


def _subjects(path: Path, numbers: dict[str, int]) -> Subjects:
    try:
        names, lines = csv_rows(path, path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    own = {name.upper(): name for name in names}
    if not {"TEMPLATE_ID", "SUBJECT_ID"} <= own.keys():
        raise DataError(f"{path}: expected the columns TEMPLATE_ID,SUBJECT_ID, got {','.join(own)}")
    rows = {(row[own["TEMPLATE_ID"]], row[own["SUBJECT_ID"]]): line for line, row in lines}
    templates = [_template(path, line, template.strip(), numbers) for (template, _), line in rows.items()]
    try:
        subjects = [int(subject) for _, subject in rows]
    except ValueError as error:
        raise DataError(f"{path}: SUBJECT_ID must be a number: {error}") from error
    return Subjects(np.array(templates, dtype=np.int64), np.array(subjects, dtype=np.int64))


def _joined(parts: list[Subjects]) -> Subjects:
    return Subjects(
        np.concatenate([part.templates for part in parts]), np.concatenate([part.subjects for part in parts])
    )


def _template(path: Path, line: int, name: str, numbers: dict[str, int]) -> int:
    if name not in numbers:
        raise DataError(f"{path}: line {line}: template {name} has no image")
    return numbers[name]
