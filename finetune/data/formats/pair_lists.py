"""Lists of verification pairs: LFW's `pairs.txt`, and CSV with the columns `a,b,same`.

`pairs.txt` (Huang et al., "Labeled Faces in the Wild", 2007): lines `NAME NUMBER NUMBER` of one person and `NAME NUMBER
NAME NUMBER` of two, after a first line with the number of folds and of pairs of each kind per fold. NUMBER 4 of Ann_Lee
is `Ann_Lee/Ann_Lee_0004.jpg`. A CSV names the images by path and says 1 or 0. Images lie below the list's folder, or
below `FILE:root=FOLDER`.

The ten folds are LFW's where the list has ten in turn; else each kind of pair is dealt to the folds in its order, so
that every fold has its share of both. Pairs are measured as they are listed, also where one is listed again, which is
reported; a list that calls the same two images one person and two is refused.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ....errors import DataError, InputError
from ..dataset import UNKNOWN_CAMERA, Dataset, encode_identities
from ..image_files import FileImages, printable
from ..image_formats import image_suffixes
from .csv_columns import column_names

__all__ = ["is_pair_csv", "open_pair_csv", "open_pairs_txt"]

FOLDS = 10
_ANSWERS = {"1": True, "1.0": True, "yes": True, "true": True, "0": False, "0.0": False, "no": False, "false": False}


class _Pair(NamedTuple):
    line: int
    first: Path
    second: Path
    same: bool


def is_pair_csv(path: Path) -> bool:
    """Whether the first line of a CSV names the columns of a list of pairs."""
    with path.open("rb") as file:
        head = file.readline(200).decode("utf-8-sig", "replace")
    return {cell.strip() for cell in head.split(",")} >= {"a", "b"}


def open_pairs_txt(path: Path, root: Path | None = None) -> Dataset:
    """Read LFW's form; identities are the names.

    Args:
        path: The list.
        root: Where the folders of the people lie; by default beside the list, or in the only folder beside it that
            holds the first person.

    Raises:
        InputError: the folder is missing.
        DataError: a line has another form or contradicts another, an image is missing, or one kind of pairs is.
    """
    lines = [line.split() for line in _text(path).splitlines()]
    numbered = [(number, fields) for number, fields in enumerate(lines, 1) if fields]
    if not numbered or not all(field.isdecimal() for field in numbered[0][1]) or len(numbered[0][1]) > 2:
        raise DataError(f"{path}: expected a first line with the numbers of folds and of pairs, such as '10 300'")
    head, rows = [int(field) for field in numbered[0][1]], numbered[1:]
    people = _find_people(path, root, rows)
    pairs = []
    for number, fields in rows:
        if len(fields) not in (3, 4) or not fields[-1].isdecimal() or not fields[1].isdecimal():
            raise DataError(f"{path}: line {number}: expected NAME NUMBER NUMBER or NAME NUMBER NAME NUMBER")
        other = fields[0] if len(fields) == 3 else fields[2]
        if len(fields) == 4 and other == fields[0]:
            raise DataError(
                f"{path}: line {number}: two people of one name; one person is listed as NAME NUMBER NUMBER"
            )
        pairs.append(
            _Pair(
                number,
                _image(path, number, people, fields[0], int(fields[1])),
                _image(path, number, people, other, int(fields[-1])),
                len(fields) == 3,
            )
        )
    in_turn = len(head) == 2 and head[0] == FOLDS and len(pairs) == FOLDS * 2 * head[1]
    if len(head) == 2 and len(pairs) != 2 * head[0] * head[1]:
        raise DataError(f"{path}: its first line announces {2 * head[0] * head[1]} pairs, {len(pairs)} follow")
    return _dataset(path, people, pairs, in_turn=in_turn, identity=lambda image: image.parent.name)


def open_pair_csv(path: Path, root: Path | None = None) -> Dataset:
    """Read a CSV with the columns `a,b,same`; identities are unknown.

    Args:
        path: The list.
        root: Where the images lie, by default beside the list.

    Raises:
        DataError: a line has another form or contradicts another, an image is missing, or one kind of pairs is.
    """
    folder = path.parent if root is None else root
    pairs: list[_Pair] = []
    known: set[Path] = set()
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), skipinitialspace=True, strict=True)
    try:
        if column_names(path, reader.fieldnames) != ["a", "b", "same"]:
            raise DataError(f"{path}: expected the columns a,b,same, got {','.join(reader.fieldnames or ())}")
        for row in reader:
            cells = [(value or "").strip() for value in row.values() if not isinstance(value, list)]
            answer = _ANSWERS.get(cells[2].lower()) if len(cells) == 3 else None
            if None in row or answer is None or not cells[0] or not cells[1]:
                raise DataError(f"{path}: line {reader.line_num}: expected two paths and 1 or 0, got {cells}")
            pairs.append(_Pair(reader.line_num, folder / cells[0], folder / cells[1], answer))
            for image in pairs[-1][1:3]:
                _check_image(path, reader.line_num, image, known)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; is a quotation mark missing?") from error
    return _dataset(path, folder, pairs, in_turn=False, identity=lambda image: image)


def _check_image(path: Path, line: int, image: Path, known: set[Path]) -> None:
    """Refuse a line whose image is not there; `known` holds the images that are."""
    if image in known:
        return
    if not image.is_file():
        raise DataError(
            f"{path}: line {line}: {printable(image)} does not exist; images lie beside the list, or say where: "
            f"{path.name}:root=FOLDER"
        )
    known.add(image)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error


def _find_people(path: Path, root: Path | None, rows: list[tuple[int, list[str]]]) -> Path:
    if root is not None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; root is where the folders of the people lie")
        return root
    name = rows[0][1][0] if rows else ""
    near = [path.parent, *sorted(folder for folder in path.parent.iterdir() if folder.is_dir())]
    found = [folder for folder in near if (folder / name).is_dir()]
    if not name or len(found) != 1:
        raise InputError(
            f"{path}: {len(found)} folders near it hold '{printable(name)}'; say where the people's folders lie: "
            f"{path.name}:root=FOLDER"
        )
    return found[0]


def _image(path: Path, line: int, people: Path, name: str, number: int) -> Path:
    stem = people / name / f"{name}_{number:04d}"
    jpeg = stem.with_name(f"{stem.name}.jpg")
    if jpeg.is_file():
        return jpeg
    found = [
        found for found in (stem.with_name(stem.name + end) for end in sorted(image_suffixes())) if found.is_file()
    ]
    if not found:
        raise DataError(f"{path}: line {line}: {printable(jpeg)} does not exist")
    return found[0]


def _dataset(
    path: Path, root: Path, pairs: list[_Pair], *, in_turn: bool, identity: Callable[[Path], object]
) -> Dataset:
    same = sum(pair.same for pair in pairs)
    if not same or same == len(pairs):
        raise DataError(f"{path}: {same} pairs of one person and {len(pairs) - same} of two; both are needed")
    notes = _repeated(path, pairs)
    images = {image: number for number, image in enumerate(dict.fromkeys(_both(pairs)))}
    count = len(images)
    rows = np.array([(images[a], images[b], same) for _, a, b, same in pairs], dtype=np.int64)
    return Dataset(
        name=printable(path),
        images=FileImages(tuple(images)),
        identities=encode_identities([identity(image) for image in images]),
        cameras=np.full(count, UNKNOWN_CAMERA, dtype=np.int64),
        names=tuple(printable(_relative(image, root)) for image in images),
        pairs=rows if in_turn else _deal(rows),
        notes=notes,
    )


def _repeated(path: Path, pairs: list[_Pair]) -> tuple[str, ...]:
    """A note on pairs that are listed again.

    Raises:
        DataError: two lines, or an image beside itself, contradict each other.
    """
    known: dict[tuple[Path, ...], _Pair] = {}
    for pair in pairs:
        before = known.setdefault(tuple(sorted(pair[1:3])), pair)
        names = f"{printable(pair.first)} and {printable(pair.second)}"
        if before.same != pair.same:
            raise DataError(f"{path}: lines {before.line} and {pair.line}: {names} are of one person and of two")
        if pair.first == pair.second and not pair.same:
            raise DataError(f"{path}: line {pair.line}: {names} are one image, and listed as of two people")
    again = len(pairs) - len(known)
    return (f"{again} pairs are listed again, and are counted as listed",) if again else ()


def _both(pairs: list[_Pair]) -> Iterator[Path]:
    for _, first, second, _ in pairs:
        yield first
        yield second


def _deal(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pairs in an order whose ten consecutive parts have their shares of both kinds."""
    place = np.empty(len(rows))
    for kind in (0, 1):
        chosen = np.flatnonzero(rows[:, 2] == kind)
        place[chosen] = (np.arange(len(chosen)) + 0.5) / len(chosen)
    return rows[np.argsort(place, kind="stable")]


def _relative(image: Path, root: Path) -> Path:
    return image.relative_to(root) if image.is_relative_to(root) else image
