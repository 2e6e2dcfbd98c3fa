"""The image formats that are read: Pillow's names for them, and the suffixes of their files.

Pillow recognises a format by the file's first bytes, not by its name, and some of its readers start other programs: a
`.jpg` that is PostScript inside would be given to Ghostscript. So the formats are listed. Of a GIF, a WebP or another
file of several images, the first is read. AVIF is read where this Pillow has it, HEIC where `pillow-heif` is installed.
"""

from __future__ import annotations

import importlib.util
from functools import cache

from PIL import features

__all__ = ["image_suffixes", "missing_plugin", "read_formats"]

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "DIB", "GIF", "WEBP", "TIFF")
_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".webp", ".tif"}
    | {".tiff"}
)
_AVIF = frozenset({".avif", ".avifs"})
_HEIC = frozenset({".heic", ".heif", ".hif"})


def image_suffixes() -> frozenset[str]:
    """Suffixes of files that are read as images, in lower case with their dot."""
    return _SUFFIXES | (_AVIF if _has_avif() else frozenset()) | (_HEIC if _has_heic() else frozenset())


@cache
def read_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    formats = [*_FORMATS, *(["AVIF"] if _has_avif() else [])]
    if _has_heic():
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats.append("HEIF")
    return tuple(formats)


def missing_plugin(suffix: str) -> str | None:
    """What to install so that files with `suffix` can be read; None for a suffix that nothing here would read."""
    if suffix in _AVIF and not _has_avif():
        return "AVIF is not read by this Pillow; install a Pillow with AVIF support"
    if suffix in _HEIC and not _has_heic():
        return "HEIC is read where pillow-heif is installed: pip install pillow-heif"
    return None


@cache
def _has_avif() -> bool:
    return bool(features.check("avif"))


@cache
def _has_heic() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None
