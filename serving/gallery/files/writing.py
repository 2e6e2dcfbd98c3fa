"""Writes everything of a gallery into one folder, which appears whole or not at all."""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from ....version import __version__
from ..found import Found
from ..stages import Stages
from .page import page_data, render_page
from .pictures import person_animation, strip_frames, track_strip, write_crops
from .records import (
    SCHEMA,
    clusters_record,
    embeddings_record,
    json_bytes,
    pseudo_csv,
    similarity_record,
    utc,
)
from .similarities import HighPairs, high_pairs, write_matrix

__all__ = ["WRITTEN", "write_gallery"]

WRITTEN = frozenset(
    {
        "clusters.json",
        "crops",
        "embeddings.json",
        "embeddings.npy",
        "person_selection.html",
        "pseudo.csv",
        "similarity_matrix.json",
        "similarity_matrix.npy",
        "strips",
        "summary.json",
        "webp",
    }
)
"""All that a gallery may hold of its own; what else lies in its folder is the user's."""

_MOST_PAGE = 18_000_000
"""Bytes of pictures in base64 up to which they are in the page; more lie beside it."""


def write_gallery(found: Found, folder: Path, animations: int, stages: Stages, settings: Mapping[str, Any]) -> None:
    """Write all files into an existing empty folder.

    Args:
        found: The gallery.
        folder: Where to.
        animations: People that get one.
        stages: Seconds so far; the writing is added.
        settings: What the user set, for summary.json.
    """
    timestamp = utc()
    with stages.stage("write"):
        clusters = json_bytes(clusters_record(found))
        high = high_pairs(found.people.vectors, found.listed.value)
        (folder / "clusters.json").write_bytes(clusters)
        (folder / "similarity_matrix.json").write_bytes(json_bytes(similarity_record(found, high, timestamp)))
        (folder / "embeddings.json").write_bytes(json_bytes(embeddings_record(found, timestamp)))
        write_matrix(found.people.vectors, folder / "similarity_matrix.npy")
        (folder / "embeddings.npy").write_bytes(_npy(found.people.vectors))
        (folder / "pseudo.csv").write_bytes(pseudo_csv(found, write_crops(found, folder)))
    with stages.stage("pictures"):
        (folder / "webp").mkdir()
        for person in found.people.people[:animations]:
            (folder / "webp" / f"person_{person.id}.webp").write_bytes(person_animation(found, person.id))
    with stages.stage("page"):
        _write_page(found, folder, clusters)
    (folder / "summary.json").write_bytes(json_bytes(_summary(found, high, stages, settings, timestamp)))


def _write_page(found: Found, folder: Path, clusters: bytes) -> None:
    count = len(found.crops.tracks)
    strips = [track_strip(found, track, strip_frames(count)) for track in range(count)]
    linked = sum(len(strip) for strip, _ in strips) * 4 / 3 > _MOST_PAGE
    addresses: list[tuple[str, int]] = []
    for track, (strip, frames) in enumerate(strips):
        if linked:
            (folder / "strips").mkdir(exist_ok=True)
            (folder / "strips" / f"{track}.webp").write_bytes(strip)
            addresses.append((f"strips/{track}.webp", frames))
        else:
            addresses.append((f"data:image/webp;base64,{base64.b64encode(strip).decode('ascii')}", frames))
    data = page_data(found, found.groups.tolist(), clusters, addresses)
    (folder / "person_selection.html").write_bytes(render_page(found, data, linked=linked))


def _summary(
    found: Found, high: HighPairs, stages: Stages, settings: Mapping[str, Any], timestamp: str
) -> dict[str, Any]:
    total = len(found.people)
    return {
        "schema": SCHEMA,
        "model_type": found.model_type,
        "model": found.model,
        "sha256": found.sha256,
        "crops": len(found.crops),
        "crops_chosen": len(found.chosen),
        "tracks": len(found.crops.tracks),
        "cameras": len(found.crops.cameras),
        "people": total,
        "outliers": len(found.outliers),
        "split_suspects": len(found.suspects),
        "cannot_link_pairs": len(found.apart),
        "mean_cohesion": found.mean_cohesion,
        "high_similarity_share": high.count / max(1, total * (total - 1) // 2),
        "threshold": asdict(found.threshold),
        "listed_threshold": asdict(found.listed),
        "centred": found.centred,
        "agreement": None if found.agreement is None else asdict(found.agreement),
        "settings": dict(settings),
        "model_calls": {"crops_embedded": stages.computed, "crops_known": len(found.chosen) - stages.computed},
        "timing": {name: round(seconds, 3) for name, seconds in stages.seconds.items()},
        "versions": {
            "rtool": __version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
        },
        "warnings": list(found.warnings),
        "timestamp": timestamp,
    }


def _npy(array: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
    return buffer.getvalue()
