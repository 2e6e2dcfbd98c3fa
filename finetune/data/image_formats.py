"""The image formats that are read, by Pillow's names.

Pillow recognises a format by the file's first bytes, not by its name, and some of its readers start other programs: a
`.jpg` that is PostScript inside would be given to Ghostscript. So the formats are listed.
"""

from __future__ import annotations

__all__ = ["READ_FORMATS"]

READ_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "DIB", "GIF", "WEBP", "TIFF")
