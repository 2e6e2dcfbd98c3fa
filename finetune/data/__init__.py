"""Data sets, samplers and augmentations."""

from __future__ import annotations

from ...lazy import lazy_exports

_PUBLIC: dict[str, str] = {
    "Dataset": ".dataset",
    "first_images": ".decoding",
    "open_dataset": ".formats.sources",
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
