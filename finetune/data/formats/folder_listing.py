"""The image files below a folder, and what else lies there, so that nothing is left out in silence.

Left out and reported are files named after another image plus a suffix (`1.pgm.png` beside `1.pgm`), converted copies
that would put an image and its copy on both sides of an evaluation; files that file managers and notebooks leave
behind; links to folders that are read already; and files of other kinds, by their suffixes.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ....errors import DataError
from ..image_files import printable
from ..image_formats import image_suffixes, missing_plugin

__all__ = ["ImageListing", "is_stray", "list_images"]

_MOST_SUFFIXES = 5
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True)
class ImageListing:
    """Image files below `root` in a natural order (2.pgm before 10.pgm), and those left out."""

    root: Path
    paths: list[Path]
    names: list[str]
    """Of `paths`, from `root` on."""
    copies: list[Path]
    strays: list[Path]
    links: list[Path]
    others: list[Path]

    def notes(self) -> tuple[str, ...]:
        """What was left out, one line per kind."""
        kinds = (
            (self.copies, "converted copies"),
            (self.strays, "images in hidden files and folders and in __MACOSX"),
            (self.links, "links to folders that are read already"),
            (self.others, f"files that are not images ({_suffix_counts(self.others)})"),
        )
        notes = [
            f"{len(found)} {kind} left out, such as {printable(found[0].relative_to(self.root))}"
            for found, kind in kinds
            if found
        ]
        return (*notes, *filter(None, map(missing_plugin, sorted({path.suffix.lower() for path in self.others}))))


def list_images(root: Path) -> ImageListing:
    """Find the image files below `root`, also through links to folders.

    Raises:
        DataError: a folder cannot be read.
    """
    links: list[Path] = []
    suffixes = image_suffixes()
    images, strays, others = set[str](), set[str](), set[str]()  # of text: paths would take three times as long
    for folder, names in _walk(root, links):
        hidden = any(map(is_stray, folder.split(os.sep)))
        for name in names:
            path = os.path.join(folder, name)
            is_image, is_hidden = _suffix(name).lower() in suffixes, hidden or is_stray(name)
            if (is_image or not is_hidden) and _is_file(os.path.join(root, path)):
                (others if not is_image else strays if is_hidden else images).add(path)
    copies = {path for path in images if path[: -len(_suffix(path))] in images}
    kept, *left_out = (sorted(found, key=_natural) for found in (images - copies, copies, strays, others))
    copied, stray, other = ([Path(root, path) for path in found] for found in left_out)
    return ImageListing(root, [Path(root, path) for path in kept], kept, copied, stray, sorted(links), other)


def _walk(root: Path, left_out: list[Path]) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `root` on, and the files in it.

    A link to a folder is followed once, and never back into `root`, which would not end.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: this folder cannot be read: {error.strerror}") from error

    entered = {Path(os.path.realpath(root))}
    top = len(os.fspath(root))
    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        for name in sorted(folders):
            path = Path(folder, name)
            if path.is_symlink():
                target = Path(os.path.realpath(path))
                if any(target.is_relative_to(known) or known.is_relative_to(target) for known in entered):
                    left_out.append(path)
                    folders.remove(name)
                entered.add(target)
        yield folder[top:].lstrip(os.sep), files


def _is_file(path: str) -> bool:
    """Whether it is a regular file, or a link to one; a link to nothing is none.

    Raises:
        DataError: that cannot be found out.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return False
        raise DataError(f"{printable(path)}: cannot be examined: {error.strerror}") from error


def is_stray(part: str) -> bool:
    """Whether a name is of thumbnails, `.ipynb_checkpoints`, or macOS's files in archives (`__MACOSX`, `._1.jpg`)."""
    return part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _suffix(name: str) -> str:
    """As `Path.suffix`, of a name or of text that ends with one."""
    dot = name.rfind(".")
    return name[dot:] if name.rfind(os.sep) + 1 < dot < len(name) - 1 else ""


def _natural(path: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", path)
    return [(int(part), "") if number % 2 else (-1, part) for number, part in enumerate(parts)], path  # 1.jpg, 01.jpg


def _suffix_counts(paths: list[Path]) -> str:
    counts = Counter(printable(path.suffix.lower()) or "no suffix" for path in paths)
    shown = [f"{suffix} {count}" for suffix, count in counts.most_common(_MOST_SUFFIXES)]
    return ", ".join([*shown, "..."] if len(counts) > _MOST_SUFFIXES else shown)
