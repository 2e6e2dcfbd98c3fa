"""From crops and a model to the people found; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, InputError
from ...finetune.embedding.unit_embeddings import unit_rows
from .embedding import embed_crops
from .found import Found
from .inputs.crops import Crops, Track
from .inputs.labels import read_labels
from .model_facts import model_facts
from .models import OpenedModel
from .people.agreement import Agreement, agreement
from .people.cannot_link import overlapping_tracks
from .people.clustering import check_size, cluster_tracks
from .people.edits import Edits, apply_edits, read_edits
from .people.people import number_people
from .people.splitting import Suspect, change_point, split_suspects
from .people.threshold import DEFAULT_THRESHOLD, Threshold, automatic_threshold
from .settings import GallerySettings
from .stages import Stages
from .tracks.quality import crop_quality
from .tracks.selection import best_crops
from .tracks.vectors import TrackVectors, sums_of_units, track_vectors

__all__ = ["find_people"]

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
_OVERLAP = 5
"""Frames that two tracks share to be certainly two people, as evidence for the threshold."""


@dataclass(frozen=True)
class _Embedded:
    """Crops, their quality, the chosen ones with embeddings, and the tracks' vectors."""

    crops: Crops
    quality: NDArray[np.float64]
    rows: Integers
    embeddings: Floats
    vectors: TrackVectors
    compared: Floats
    """Vectors whose dot products are the similarities of tracks."""


def find_people(model: OpenedModel, crops: Crops, settings: GallerySettings, stages: Stages) -> Found:
    """Cluster the tracks of `crops`.

    Raises:
        DataError: fewer than two tracks, or too many unreadable images.
        InputError: embeddings are not finite; labels or edits do not fit; HDBSCAN of too many tracks.
    """
    warnings = [*crops.notes, *model.warnings]
    with stages.stage("select"):
        scored = crop_quality(crops)
        crops, quality = scored.crops, scored.values
        if scored.unreadable:
            warnings.append(f"{len(scored.unreadable)} unreadable images left out: {', '.join(scored.unreadable)}")
        if len(crops.tracks) < 2:
            raise DataError(f"{crops.name}: {len(crops.tracks)} track; a gallery compares two or more")
        if settings.labels is not None:
            truth, notes = read_labels(Path(settings.labels), crops)
            crops, warnings = replace(crops, truth=truth), [*warnings, *notes]
        check_size(settings.cluster, len(crops.tracks))
        rows = best_crops(crops, quality, settings.crops)
    with stages.stage("embed"):
        embeddings, stages.computed = embed_crops(model, crops, rows)
        if blank := int((~embeddings.any(axis=1)).sum()):
            warnings.append(f"{blank} of {len(rows)} crops have an embedding of zeros, which is similar to nothing")
    with stages.stage("similarity"):
        embedded = _compared(crops, quality, rows, embeddings, settings)
    with stages.stage("cluster"):
        return _clustered(model, embedded, settings, warnings)


def _compared(
    crops: Crops, quality: NDArray[np.float64], rows: Integers, embeddings: Floats, settings: GallerySettings
) -> _Embedded:
    vectors = track_vectors(crops, rows, embeddings, quality, settings.centre)
    compared = vectors.tracks
    if settings.similarity == "mean-of-pairs":
        compared = _means(embeddings, crops.track[rows], len(crops.tracks))
    return _Embedded(crops, quality, rows, embeddings, vectors, compared)


def _means(embeddings: Floats, owner: Integers, count: int) -> Floats:
    """The mean of each track's crops, each unit: the dot product of two is the mean cosine of all pairs of crops."""
    sums = sums_of_units(embeddings, owner, np.ones(len(owner)), count)
    means: Floats = (sums / np.bincount(owner, minlength=count)[:, None]).astype(np.float32)
    return means


def _clustered(model: OpenedModel, e: _Embedded, settings: GallerySettings, warnings: list[str]) -> Found:
    by_time = e.crops.timed if settings.cannot_link is None else settings.cannot_link == "time"
    apart = overlapping_tracks(e.crops) if by_time else np.zeros((0, 2), dtype=np.int64)
    certain = overlapping_tracks(e.crops, _OVERLAP) if by_time else apart
    threshold = _threshold(settings, e, certain)
    suspects = split_suspects(e.vectors, threshold.value)
    if settings.split and suspects:
        divided = _split(e, suspects, settings)
        return _clustered(model, divided, replace(settings, split=False), warnings)
    clusters = cluster_tracks(
        e.vectors.tracks,
        e.compared,
        apart,
        settings.cluster,
        threshold.value,
        eps=settings.eps,
        partners=settings.partners,
    )
    labels = [track.label for track in e.crops.tracks]
    edits = _edits(settings)
    groups, names = (clusters.groups, {}) if edits is None else apply_edits(clusters.groups, edits, labels)
    if not (groups >= 0).any():
        raise InputError(f"{settings.edits}: drops every track; keep one at least")
    people = number_people(e.crops, e.vectors.tracks, groups, names)
    facts = model_facts(model)
    alone = {person.tracks[0] for person in people.people if len(person.tracks) == 1}
    return Found(
        crops=e.crops,
        chosen=e.rows,
        quality=e.quality,
        vectors=e.vectors.tracks,
        compared=e.compared,
        tree=clusters.tree,
        apart=apart,
        groups=clusters.groups,
        people=people,
        outliers=tuple(track for track in clusters.outliers.tolist() if track in alone),
        suspects=suspects,
        method=settings.cluster,
        threshold=threshold,
        listed=threshold if settings.threshold is not None else Threshold(DEFAULT_THRESHOLD, "default"),
        centred=e.vectors.note,
        model=model.embedder.name,
        model_type=model.model_type,
        sha256=facts.sha256,
        head=facts.rows,
        agreement=_measured(e.crops, people.of_track),
        edits=edits,
        warnings=tuple(warnings),
    )


def _threshold(settings: GallerySettings, e: _Embedded, certain: Integers) -> Threshold:
    if isinstance(settings.threshold, float):
        return Threshold(settings.threshold, "given")
    edits = _edits(settings)
    if edits is not None and edits.threshold is not None:
        return Threshold(edits.threshold, "given")
    return automatic_threshold(e.compared, e.vectors, certain)


def _edits(settings: GallerySettings) -> Edits | None:
    if settings.edits is None:
        return None
    if not settings.edits.is_file():
        raise InputError(f"{settings.edits}: no such file; save edits.json on the gallery's page")
    source = settings.edits_source or settings.edits.parent / "clusters.json"
    try:
        clusters = source.read_bytes()
    except OSError as error:
        raise InputError(
            f"{settings.edits}: needs the clusters.json it was made on; {source} cannot be read ({error.strerror}): "
            "put both in one folder, or write over the gallery that was edited"
        ) from error
    return read_edits(settings.edits, clusters)


def _measured(crops: Crops, of_track: Integers) -> Agreement | None:
    """Agreement with the truth over the tracks that are not dropped; None where it is unknown of all."""
    truth = crops.truth or ()
    known = [track for track, person in enumerate(truth) if person is not None and of_track[track] >= 0]
    return agreement([truth[track] for track in known], of_track[known]) if known else None


def _split(e: _Embedded, suspects: tuple[Suspect, ...], settings: GallerySettings) -> _Embedded:
    """The same crops with every suspect cut in two tracks at its best change point, and compared again."""
    tracks, owner = list(e.crops.tracks), e.crops.track.copy()
    for suspect in suspects:
        own = np.flatnonzero(e.crops.track[e.rows] == suspect.track)
        first = change_point(unit_rows(e.embeddings[own]))
        from_frame = e.rows[own[first]]
        later = np.flatnonzero((owner == suspect.track) & (np.arange(len(owner)) >= from_frame))
        before = tracks[suspect.track]
        tracks[suspect.track] = Track(f"{before.label}#1", f"{before.name}#1", before.camera)
        owner[later] = len(tracks)
        tracks.append(Track(f"{before.label}#2", f"{before.name}#2", before.camera))
    order = np.argsort(owner, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    moved = place[e.rows]
    again = np.argsort(moved)
    truth = e.crops.truth
    crops = replace(
        e.crops.reordered(order),
        track=owner[order],
        tracks=tuple(tracks),
        truth=None if truth is None else (*truth, *(truth[suspect.track] for suspect in suspects)),
    )
    return _compared(crops, e.quality[order], moved[again], e.embeddings[again], settings)
