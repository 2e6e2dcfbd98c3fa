"""What a search leaves in `search/` of its run, and in TensorBoard, epoch by epoch.

search/alphas.npy               float32 [epochs, 2 edges, operations]; with edge_weights one column more
search/epoch001-normal.svg, -reduce.svg   the cell that alpha said after each epoch
search/shortlist.json           cells that were trained briefly, and their metrics, by `ranking`
search/genotype.json            the cell that was found, written last
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...converters.files.atomic_file import write_atomically
from ...converters.zoo.cells.genotype import Genotype
from ...converters.zoo.cells.pictures import cell_image, cell_svg
from ..runs.run_folder import RunFolder

__all__ = ["SearchFolder"]

GENOTYPE = "genotype.json"


class SearchFolder:
    """`search/` of a run, on the process that writes it."""

    def __init__(self, folder: RunFolder) -> None:
        self._run = folder
        self.path: Path = folder.path / "search"
        self.path.mkdir(exist_ok=True)

    def write_epoch(
        self,
        epoch: int,
        step: int,
        cell: Genotype,
        history: list[NDArray[np.float32]],
        shares: tuple[NDArray[np.float32], NDArray[np.float32]],
        numbers: dict[str, object],
    ) -> None:
        """Write what an epoch ended with.

        Args:
            epoch: From 0.
            step: Steps of the run so far.
            cell: What alpha says.
            history: The alphas of all epochs so far.
            shares: The weights of the operations of normal and reduction cells.
            numbers: Entropy, skips and the like, for metrics.jsonl.
        """
        content = io.BytesIO()
        np.save(content, np.stack(history), allow_pickle=False)
        write_atomically(self.path / "alphas.npy", content.getvalue())
        self._run.record(kind="search", step=step, epoch=epoch + 1, **numbers)
        for kind, share in zip(("normal", "reduce"), shares, strict=True):
            title = f"epoch {epoch + 1}, {'normal' if kind == 'normal' else 'reduction'} cell"
            write_atomically(self.path / f"epoch{epoch + 1:03d}-{kind}.svg", cell_svg(cell, kind, title).encode())
            for tracker in self._run.trackers:
                tracker.add_picture(f"genotype/{kind}", np.asarray(cell_image(cell, kind, title)), step)
                for edge, row in enumerate(share):
                    tracker.add_histogram(f"{kind}/edge{edge:02d}", row, step)
