"""The crops of a generator, such as synthetic-people: one track per identity and camera, in the order of drawing.

Frames are the numbers of the pictures, so no two tracks overlap in time. Who is who is known, and used to measure only.
"""

from __future__ import annotations

from ....finetune.data.dataset import Dataset
from .crops import Crop, Crops, make_crops

__all__ = ["generated_crops"]


def generated_crops(dataset: Dataset) -> Crops:
    """One track per identity and camera of a drawn data set."""
    keys = list(zip(dataset.identities.tolist(), dataset.cameras.tolist(), strict=True))
    numbers: dict[tuple[int, int], int] = {}
    for key in keys:
        numbers.setdefault(key, len(numbers))
    found = [
        Crop(
            image=row,
            name=dataset.names[row],
            track=f"t{numbers[key]:04d}",
            camera="" if key[1] < 0 else f"c{key[1]}",
            frame=row,
            truth=str(key[0]),
        )
        for row, key in enumerate(keys)
    ]
    return make_crops(dataset.name, dataset.images, found, timed=True, notes=dataset.notes)
