"""The data of a run, ready for the loop: training images, and held-out images for the evaluations between epochs.

Both are kept decoded while they fit into `data.memory_gb` together, training images first; what does not fit is
decoded at each use. Only the rank that evaluates reads held-out images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...errors import ConfigError, DataError
from ..config.config import FinetuneConfig
from ..config.sources import EvaluationSources, TrainingSources, as_list, named_sources
from ..data.augment.views import Views
from ..data.cached.decoded_cache import DecodedCache
from ..data.dataset import Dataset
from ..data.decoding import Pixels, read_pixels, unreadable_note
from ..data.distinct_images import Contents, content_numbers, one_of_each, refuse_two_identities
from ..data.formats.sources import drawn_as, open_dataset
from ..data.formats.unlabelled import open_unlabelled
from ..data.image_files import UnreadableImageError
from ..data.joined import join_datasets
from ..data.jpeg.second_decoder import decoder_note
from ..data.loading import TrainingPixels
from ..data.occlusion.visible_files import VisibleFiles, open_visible_files, without_masks
from ..data.reduced_scale import with_reduced_images
from ..data.selection.halves import held_out_identities, split_inside_identities
from ..data.selection.partners import with_images, with_partners
from ..data.selection.positions import at_positions
from ..data.splits import split_by_identity
from ..evaluation.ranks.ranking import Ranking
from ..processes.collectives import rank
from ..runs.data_record import DataRecord, content_digest
from .epoch import mask_points
from .measuring.held_out import HeldOutImages, hold_out, ranking_of

__all__ = ["PreparedData", "describe_data", "open_training_data", "prepare_data", "visible_files", "weights_part"]


@dataclass(frozen=True)
class PreparedData:
    """The data of a run; `notes` are lines for the log that name what was left out, and why."""

    train: TrainingPixels
    held_out: Mapping[str, HeldOutImages]
    """The sets that are measured, by name; a single one is named "", and there is none where evaluation is null."""
    notes: tuple[str, ...]
    record: DataRecord
    """What a resumed run is compared by."""


def open_training_data(config: FinetuneConfig, preprocessing: Preprocessing) -> tuple[Dataset, dict[str, Dataset]]:
    """The training data set, and the held-out sets by name; no image is decoded.

    Args:
        config: The run.
        preprocessing: Of its network.

    Raises:
        ConfigError: `data.decode` does nothing with these images.
        DataError: too few identities in either, or pairs to verify as training data.
        InputError: a data set does not exist.
    """
    train, held_out = _split(config, _open_source(config))
    mask_points(config, train, preprocessing)
    return _decoded(config, train, preprocessing), held_out


def visible_files(config: FinetuneConfig, train: Dataset) -> VisibleFiles | None:
    """What the files of `data.visible` say about the training images.

    Raises:
        DataError, InputError: as `open_visible_files`.
    """
    return None if config.data.visible is None else open_visible_files(config.data.visible, train)


def weights_part(config: FinetuneConfig, train: Dataset) -> Dataset:
    """The training images that weights are trained on: all, but those of alpha in a search.

    Raises:
        DataError: an identity has one image, or there are too few identities to rank cells on.
    """
    search = config.search
    if search is None:
        return train
    if search.shortlist > 1 or search.method == "random":
        held_out_identities(train, search.shortlist_holdout, config.seed)
    if search.method == "random":
        return train
    positions, _ = split_inside_identities(train, search.split, config.seed)
    return replace(train.subset(positions), identities=train.identities[positions])


def describe_data(config: FinetuneConfig) -> DataRecord:
    """The record of a run's data, from labels and the stored content of some images; none is decoded.

    Raises:
        DataError, InputError: as `open_training_data`.
    """
    source = _open_source(config)
    train, held_out = _split(config, source)
    return _record(config, source, train, held_out, _contents(config, source, held_out))


def _contents(config: FinetuneConfig, source: Dataset, held_out: Mapping[str, Dataset]) -> tuple[str, str]:
    """Digests of what the images are stored as, of data sets without a cache of decoded ones."""
    return content_digest([source]), content_digest(() if config.data.evaluate is None else held_out.values())


def _open_source(config: FinetuneConfig, cache: DecodedCache | None = None) -> Dataset:
    opened = {}
    subset, sources = config.data.subset, named_sources(config.data.train)
    if subset is not None and (len(sources) > 1 or (config.distil is not None and not config.distil.labels)):
        raise ConfigError(
            "data.subset: positions are of one labelled data set; leave it out, or give one data set as data.train"
        )
    if config.distil is not None and not config.distil.labels:
        return _open_unlabelled(config.data.train)
    for name, source in sources.items():
        dataset = open_dataset(source)
        if dataset.pairs is not None:
            raise DataError(
                f"{dataset.name}: pairs to verify, not people to learn from: each image counts as an identity of its "
                "own; give them as data.evaluate, and a folder, records or a manifest of identities as data.train"
            )
        dataset = dataset if cache is None else cache.of(dataset, source)
        known = (dataset if subset is None else at_positions(dataset, subset)).of_somebody()
        opened[name] = known if config.data.visible is None else without_masks(known)
    return with_images(join_datasets(opened), config.data.min_images)


def _open_unlabelled(sources: TrainingSources) -> Dataset:
    return join_datasets({name: open_unlabelled(source) for name, source in named_sources(sources).items()})


def _record(
    config: FinetuneConfig,
    source: Dataset,
    train: Dataset,
    held_out: Mapping[str, Dataset],
    contents: tuple[str, str],
) -> DataRecord:
    data, evaluation = config.data, config.evaluation
    measured: list[object] = []
    if evaluation is not None:
        measured += [evaluation.flip, evaluation.rerank]
        ranking = ranking_of(evaluation)
        if ranking != Ranking(rerank=evaluation.rerank):
            measured.append(ranking)
        if evaluation.function is not None:
            measured.append(evaluation.function)
    if data.evaluate is not None:
        for name, dataset in held_out.items():
            measured += [name, dataset] if name else [dataset]
    held = data.holdout if data.evaluate is None and evaluation is not None else None
    measured += _drawn(data.evaluate)
    origin = [source, held, *_drawn(data.train)] + ([] if data.decode == "exact" else [data.decode])
    if data.visible is not None:
        origin.append("visible")
    if config.distil is not None and config.distil.unlabelled is not None:
        origin += [_open_unlabelled(config.distil.unlabelled), *_drawn(config.distil.unlabelled)]
    return DataRecord.of(
        train, list(held_out.values()), seed=config.seed, source=origin, evaluation=measured, contents=contents
    )


def _decoder(dataset: Dataset) -> str | None:
    """Who decodes the training images, by the first of them."""
    try:
        return decoder_note(dataset.images.stored(0))
    except UnreadableImageError:
        return None


def _drawn(sources: TrainingSources | EvaluationSources | None) -> list[object]:
    """What generators draw of some sources."""
    return [] if sources is None else list(filter(None, map(drawn_as, as_list(sources))))


def _decoded(config: FinetuneConfig, train: Dataset, preprocessing: Preprocessing) -> Dataset:
    """The training images as `data.decode` says."""
    if config.data.decode == "exact":
        return train
    return with_reduced_images(train, preprocessing.height, preprocessing.width)


def _split(config: FinetuneConfig, train: Dataset) -> tuple[Dataset, dict[str, Dataset]]:
    held_out: dict[str, Dataset] = {}
    if config.evaluation is not None and config.data.evaluate is not None:
        sources = named_sources(config.data.evaluate)
        held_out = {name: open_dataset(source, "test") for name, source in sources.items()}
    elif config.evaluation is not None:
        train, held_out[""] = split_by_identity(train, config.data.holdout, config.seed)
    if config.data.sampler != "random":
        train = with_partners(train)
    distil = config.distil
    if train.identity_count < 2 and (distil is None or distil.labels):
        raise DataError(f"{train.name}: one identity; training needs at least 2")
    if distil is not None and distil.unlabelled is not None:
        more = _open_unlabelled(distil.unlabelled)
        train = join_datasets({train.name: train, f"{more.name}, unlabelled": more})
    return train, held_out


def prepare_data(config: FinetuneConfig, preprocessing: Preprocessing, views: Views | None = None) -> PreparedData:
    """Open both data sets and read what fits into memory: held-out images at the model's size, training images at it
    or at the canvas of `views`, where teachers of other sizes see them too.

    Raises:
        ConfigError: `data.decode` does nothing with these images.
        DataError: over 1 % of the images of a data set cannot be read.
    """
    canvas = preprocessing if views is None else views.canvas
    folder = config.data.cache
    caches = [DecodedCache(folder, form) for form in (canvas, preprocessing)] if folder is not None else []
    source = _open_source(config, caches[0] if caches else None)
    train, held_out = _split(config, source)
    stored = _contents(config, _open_source(config) if caches else source, held_out)
    if caches:
        held_out = _held_out_cached(config, held_out, caches[1], same=canvas == preprocessing)
    record = _record(config, source, train, held_out, stored)
    mask_points(config, train, canvas)
    train = _decoded(config, train, canvas)
    opened = [train] if config.data.evaluate is None else [train, *held_out.values()]
    notes = [f"{dataset.name}: {note}" for dataset in opened for note in dataset.notes]
    notes += [note for cache in caches for note in cache.notes]
    notes += [*_notes_on_sources(config, train, held_out), *filter(None, [_decoder(source)])]
    image_bytes, canvas_bytes = (form.height * form.width * form.channels for form in (preprocessing, canvas))
    memory = int(config.data.memory_gb * 1e9)
    values: NDArray[np.uint8] | None = None
    contents: Contents | None = None
    if len(train) * canvas_bytes <= memory:
        memory -= len(train) * canvas_bytes
        read = read_pixels(train, canvas.resize)
        train, values = read.dataset, read.values
        notes += _unreadable_notes(read)
        contents = content_numbers(values)
        refuse_two_identities(train, contents)
        again = len(train) - len(one_of_each(train, contents)[0])
        if again:
            notes.append(f"{train.name}: {again} images are copies of others, by content; they are trained on as well")
    else:
        notes.append(f"{train.name}: not searched for copies of images, because it does not fit into data.memory_gb")
    room = memory // image_bytes
    known = contents if (canvas.height, canvas.width) == (preprocessing.height, preprocessing.width) else None
    if contents is not None and known is None and held_out:
        notes.append("held-out images are not searched for among training images, which teachers see at another size")
    held: dict[str, HeldOutImages] = {}
    for name, dataset in held_out.items():
        evaluation = config.evaluation if rank() == 0 else None
        if evaluation is None:
            held[name] = HeldOutImages(dataset, preprocessing.resize, None)
            continue
        held[name], found = hold_out(evaluation, dataset, preprocessing.resize, room=room, trained=known)
        notes += found
        room -= len(dataset) if held[name].pixels is not None else 0
    visible = visible_files(config, train)
    notes += [] if visible is None else [f"{train.name}: {visible}"]
    return PreparedData(
        TrainingPixels(train, canvas.resize, values, views, visible),
        held,
        tuple(notes),
        record,
    )


def _held_out_cached(
    config: FinetuneConfig, held_out: dict[str, Dataset], cache: DecodedCache, *, same: bool
) -> dict[str, Dataset]:
    """The sets that are measured, read from the cache by the process that measures.

    Args:
        config: The run.
        held_out: As they were opened; images held out of the training data are cached with these.
        cache: Of images at the model's own size.
        same: Whether training images are cached at that size too.
    """
    sources = config.data.evaluate
    if sources is None:  # training images at a canvas of another size are not what is measured
        return held_out if same else _split(config, _open_source(config))[1]
    if rank() != 0:
        return held_out
    return {name: cache.of(dataset, named_sources(sources)[name]) for name, dataset in held_out.items()}


def _notes_on_sources(config: FinetuneConfig, train: Dataset, held_out: Mapping[str, Dataset]) -> list[str]:
    if config.evaluation is None:
        return ["evaluation is null: nothing is held out or measured, and no checkpoint is the best"]
    trained = as_list(config.data.train)
    return [
        f"data.evaluate {source} is trained on: its metrics are of the training images; null holds some out"
        for source, dataset in zip(as_list(config.data.evaluate), held_out.values(), strict=False)
        if source in trained and (len(trained) > 1 or dataset.names == train.names)
    ]


def _unreadable_notes(pixels: Pixels) -> list[str]:
    return [unreadable_note(pixels.dataset.name, pixels.unreadable)] if pixels.unreadable else []
