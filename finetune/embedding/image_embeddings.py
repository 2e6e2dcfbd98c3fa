"""`embed`: the embeddings of images by any model, in a file; decoding and inference overlap."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Semaphore
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.probes.given_probes import Probe
from ...errors import DataError, GateError, InputError
from ..data.image_files import UnreadableImageError
from ..processes.cores import available_cores
from .embed_images import EmbedImages
from .embedders import Embedder, open_embedder
from .embeddings_file import check_embeddings_output, write_embeddings
from .image_digests import DigestedImages
from .image_sources import NamedImages, open_images
from .overlapping import in_order

__all__ = ["EmbedResult", "embed"]

Floats = NDArray[np.float32]

_NAMED = 5


@dataclass(frozen=True)
class EmbedResult:
    """Embeddings float32 [N, D], the names of their N images in the order of the input, and what it took."""

    path: Path | None
    """The file; None where none was asked for."""
    names: tuple[str, ...] = field(repr=False)
    embeddings: Floats = field(repr=False)
    unreadable: tuple[str, ...]
    """Names of the images that cannot be decoded; they have no row."""
    computed: int
    """Images that the model embedded; the others were in the cache."""
    seconds: float
    """From the first image to the last; opening the model and writing the file are not in it."""
    model: str
    batch: int
    preprocessing: Preprocessing
    preprocessing_origin: str
    notes: tuple[str, ...] = ()
    """What was left out of the images, and how the model was opened."""

    @property
    def images_per_second(self) -> float:
        """Rows per second."""
        return len(self.names) / max(self.seconds, 1e-9)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.embeddings.shape[1])


def embed(
    reference: str | Path | Embedder,
    images: str | Path | NamedImages,
    path: str | Path | None = None,
    *,
    limit: int | None = None,
    flip: bool = False,
    batch: int | Literal["auto"] = "auto",
    output: int = 0,
    device: str = "cpu",
    preprocessing: str | Preprocessing | None = None,
    size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
    probes: Mapping[str, Probe] | None = None,
    cache: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
    report: Callable[[str], object] | None = None,
) -> EmbedResult:
    """Embed images and write the embeddings, rows in the order of the images.

    Args:
        reference: A model reference, or an embedder that is open; its own options count then.
        images: A folder (every image below it), an image, a manifest, what `open_dataset` takes, or open images.
        path: The file to write, `.npz`, `.npy` or `.parquet`, see `embeddings_file`; None writes none.
        limit, flip, batch: Only the first so many images; add the mirror image's embedding; see `fitting_batch`.
        output, device, weights: Number of the embedding output, from 0; "cpu" or "cuda:N"; a state_dict to load first.
        preprocessing, size, probes: How images are prepared, their size, and other inputs, as in `open_embedder`.
        cache: A folder of known embeddings. An interrupted call that is made again continues where it stopped.
        overwrite: Replace a file that is there.
        progress, report: Called with the numbers of images done and of all; with a line about each thing left out.

    Raises:
        InputError: the model or the images do not exist, or `path` cannot be written.
        DataError: there is no image, or none can be read.
        GateError: embeddings hold NaN or infinity; names the images.
        PlatformError: `.parquet` without pyarrow, no such device, or the server does not answer.

    Examples:
        >>> result = rtool.embed("model.onnx", "synthetic-people:identities=4,images=8,seed=2,size=16x8", "out.npz")
        >>> np.load(result.path)["embeddings"].shape, result.names[0]
        ((32, 4), 'person0000_c4_00')
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be 1 or more, got {limit}")
    target = None if path is None else Path(path)
    if target is not None:
        named = [str(given) for given in (reference, weights) if isinstance(given, str | Path)]
        sources = [Path(name) for name in named if "\0" not in name]
        check_embeddings_output(target, overwrite=overwrite, sources=sources)
    found = images if isinstance(images, NamedImages) else open_images(images)
    options: dict[str, Any] = {"preprocessing": preprocessing, "size": size, "weights": weights, "batch": batch}
    model = _opened(reference, output=output, device=device, probes=probes, **options)
    run = _Run(model, found, min(len(found), limit or len(found)), flip)
    notes = (*(f"{found.name}: {note}" for note in found.notes), *model.notes)
    _tell(report, notes)
    result = run.result(target, cache, notes, progress, report)
    if target is not None:
        write_embeddings(target, result.names, result.embeddings, run.metadata(result))
    return result


def _opened(reference: str | Path | Embedder, **options: Any) -> Embedder:
    """The embedder; ONNX Runtime on a CPU takes one thread for each call, for every core has a call."""
    return reference if isinstance(reference, Embedder) else open_embedder(reference, threads=1, **options)


@dataclass(frozen=True)
class _Rows:
    """What one batch gave: positions of the readable images [n] and their embeddings [n, D]."""

    positions: list[int]
    embeddings: Floats | None
    unreadable: list[int]


@dataclass(frozen=True)
class _Run:
    """The embedding of the first `count` images."""

    model: Embedder
    images: NamedImages
    count: int
    flip: bool

    def result(
        self,
        path: Path | None,
        cache: str | Path | None,
        notes: tuple[str, ...],
        progress: Callable[[int, int], object] | None,
        report: Callable[[str], object] | None,
    ) -> EmbedResult:
        model, names = self.model, self.images.names
        known = None if cache is None else model.cache(cache, flip=self.flip, report=report)
        digested = DigestedImages(self.images.images)
        rows, readable, unreadable = [], list[int](), list[int]()
        started = time.perf_counter()
        with EmbedImages(model.embed, flip=self.flip, batch=model.batch, cache=known) as embed_known:

            def work(batch: Sequence[int], running: Semaphore) -> _Rows:
                return self._embed(batch, digested, embed_known, running)

            cores = available_cores()
            threads = max(cores, model.lanes) + (model.lanes < cores)
            for found in in_order(work, self._batches(), threads=threads, lanes=model.lanes):
                readable += found.positions
                unreadable += found.unreadable
                if found.embeddings is not None:
                    rows.append(found.embeddings)
                if progress is not None:
                    progress(len(readable) + len(unreadable), self.count)
        seconds = time.perf_counter() - started
        lost = tuple(names[index] for index in unreadable)
        if not rows:
            raise DataError(f"{self.images.name}: none of {self.count} images can be read, such as {lost[0]}")
        if lost and report is not None:
            report(f"{self.images.name}: {len(lost)} of {self.count} images cannot be read: {', '.join(lost)}")
        return EmbedResult(
            path=path,
            names=tuple(names[index] for index in readable),
            embeddings=np.concatenate(rows),
            unreadable=lost,
            computed=embed_known.computed,
            seconds=seconds,
            model=model.name,
            batch=model.batch,
            preprocessing=model.preprocessing,
            preprocessing_origin=model.decision.reason,
            notes=notes,
        )

    def metadata(self, result: EmbedResult) -> dict[str, Any]:
        """What is written beside the embeddings: the same for the same model and images."""
        return {
            "model": result.model,
            "preprocessing": result.preprocessing.to_dict(),
            "flip": self.flip,
            "output": self.model.output,
            "unreadable": list(result.unreadable),
        }

    def _batches(self) -> list[range]:
        size = self.model.batch
        return [range(start, min(start + size, self.count)) for start in range(0, self.count, size)]

    def _embed(
        self, batch: Sequence[int], images: DigestedImages, embed_known: EmbedImages, running: Semaphore
    ) -> _Rows:
        """Decode what is not known, then run the model on it."""
        cache, resize = embed_known.cache, self.model.preprocessing.resize
        stored: dict[int, bytes] = {}
        rows: dict[int, Floats] = {}
        pixels: dict[int, NDArray[np.uint8]] = {}
        if cache is not None:
            stored = {index: content for index in batch if (content := _stored(images, index)) is not None}
            found, known = cache.lookup(images.digests[list(stored)])
            rows = {index: row for index, row, is_known in zip(stored, known, found, strict=True) if is_known}
        for index in batch:
            if index not in rows and (cache is None or index in stored):
                try:
                    image = self.images.images[index] if cache is None else images.decoded(index, stored[index])
                    pixels[index] = resize(image)
                except (UnreadableImageError, InputError):  # the second: pixels without an 8-bit form
                    continue
        if pixels:
            with running:
                new = self._finite(embed_known, pixels, images.digests[list(pixels)])
            rows |= dict(zip(pixels, new, strict=True))
        positions = [index for index in batch if index in rows]
        embeddings = np.stack([rows[index] for index in positions]) if positions else None
        return _Rows(positions, embeddings, [index for index in batch if index not in rows])

    def _finite(
        self, embed_known: EmbedImages, pixels: dict[int, NDArray[np.uint8]], digests: NDArray[np.uint8]
    ) -> Floats:
        """Their embeddings.

        Raises:
            GateError: some are not finite; names the images.
        """
        try:
            return embed_known(np.stack(list(pixels.values())), digests)
        except GateError as error:
            alone = {index: self.model.embed(image[None]) for index, image in pixels.items()}
            broken = [self.images.names[index] for index, row in alone.items() if not np.isfinite(row).all()]
            where = ", ".join(broken[:_NAMED]) + (", ..." if len(broken) > _NAMED else "")
            where = where or f"a batch that begins with {self.images.names[next(iter(pixels))]}"
            raise GateError(
                f"{self.model.name}: embeddings hold NaN or infinity, of {where}; the weights have diverged, or "
                "overflow in this precision: try it in fp32"
            ) from error


def _tell(report: Callable[[str], object] | None, notes: Sequence[str]) -> None:
    if report is not None:
        for note in notes:
            report(note)


def _stored(images: DigestedImages, index: int) -> bytes | None:
    """What an image is known by; None where it cannot be read."""
    try:
        return images.stored(index)
    except UnreadableImageError:
        return None
