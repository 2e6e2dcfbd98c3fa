"""Mean and deviation of another trainer as `model.preprocessing`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "preprocessing_of"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""In units of 0 to 1, as they are published."""
_NEAR = 0.5
"""In units of pixels: what rounding to whole pixel values changes."""


def preprocessing_of(mean: Sequence[float], std: Sequence[float], *, unit: float) -> str | None:
    """`imagenet`, or `mean=...,std=...` in units of pixels; None for numbers that no preprocessing has.

    Args:
        mean: One number, or one per channel in RGB order.
        std: Likewise.
        unit: What 255 is in these numbers: 255 for pixels, 1 for shares.
    """
    values = [[255 / unit * number for number in numbers] for numbers in (mean, std)]
    if not all(len(numbers) in (1, 3) for numbers in values) or min(values[1], default=0.0) <= 0:
        return None
    published = [[255 * number for number in numbers] for numbers in (IMAGENET_MEAN, IMAGENET_STD)]
    pairs = zip([*values[0], *values[1]], [*published[0], *published[1]], strict=False)
    if len(values[0]) == len(values[1]) == 3 and all(abs(a - b) < _NEAR for a, b in pairs):
        return "imagenet"
    texts = [",".join(f"{number:.6g}" for number in numbers) for numbers in values]
    return f"mean={texts[0]},std={texts[1]}"
