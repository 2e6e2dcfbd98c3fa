"""`make bench-gallery`: the automatic threshold, 10,000 crops, 20,000 tracks, and adaptation over three seeds.

threshold   pairwise F at `auto` beside .70, of 40 people x 24 crops, centred by camera and not
size        seconds per stage and memory of 10,000 crops in 500 tracks
many        processor time and memory of clustering 20,000 drawn vectors of 2,000 people; a matrix would take 1.6 GB
adaptation  mAP of 60 other people before and after each round on 150 unlabelled people, seeds 0 to 2
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...serving.gallery.adaptation import adapt
from ...serving.gallery.galleries import GalleryResult, gallery
from ...serving.gallery.people.agreement import agreement
from ...serving.gallery.people.clustering import Method, cluster_tracks
from ...serving.gallery.people.threshold import automatic_threshold
from ...serving.gallery.settings import GallerySettings
from ...serving.gallery.tracks.vectors import TrackVectors
from ..machine import describe_machine
from ..places import DEMO_MODEL, RESULTS

__all__ = ["main"]

_THRESHOLD_PEOPLE = "synthetic-people:identities=40,images=24,seed=11,cameras=1"
_MANY = "synthetic-people:identities=125,images=80,seed=2,cameras=0,views=4"
_TARGET = "synthetic-people:identities=150,images=12,seed=11,cameras=1"
_OTHERS = "synthetic-people:identities=60,images=12,seed=12,cameras=1"
_METHODS: tuple[Method, ...] = ("agglomerative", "components", "dbscan")
_OUTSIDE = ("read", "embed")
"""Stages of decoding and inference."""

Rows = list[dict[str, Any]]


def _threshold(model: Path, folder: Path) -> Rows:
    rows: Rows = []
    for centre in ("none", "camera"):
        for threshold in (0.70, "auto"):
            settings = GallerySettings(
                centre=centre, threshold=threshold, people=0, cache=folder / "cache", device="cpu"
            )
            result = gallery(model, _THRESHOLD_PEOPLE, folder / f"{centre}-{threshold}", settings=settings)
            quality = result.agreement
            rows.append(
                {
                    "model": model.name,
                    "centre": centre,
                    "threshold": f"{result.threshold:.3f} ({result.threshold_source})",
                    "people": result.people,
                    "pairwise F": round(quality.pair_f, 3) if quality else None,
                    "B-cubed F": round(quality.bcubed_f, 3) if quality else None,
                }
            )
    return rows


def _size(model: Path, folder: Path) -> Rows:
    return [_costs(gallery(model, _MANY, folder / "size", settings=GallerySettings(device="cpu")))]


def _many() -> Rows:
    draw = np.random.default_rng(0)
    person = np.arange(20_000) % 2_000
    vectors = draw.normal(size=(2_000, 512)).astype(np.float32)[person]
    vectors += 1.5 * draw.normal(size=vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = np.zeros((0, 2), dtype=np.int64)
    halves = TrackVectors(vectors, apart[:, 0], np.zeros((0, 2, 512), dtype=np.float32), "none")
    threshold = automatic_threshold(vectors, halves, apart)
    rows: Rows = []
    for method in _METHODS:
        before = time.process_time()
        found = cluster_tracks(vectors, vectors, apart, method, threshold.value, eps=0.4, partners=10)
        rows.append(
            {
                "cluster": method,
                "tracks": len(vectors),
                "people": len(np.unique(found.groups)),
                "pairwise F": round(agreement(person, found.groups).pair_f, 3),
                "processor, s": round(time.process_time() - before, 1),
                "memory, MB": _memory(),
            }
        )
    return rows


def _costs(result: GalleryResult) -> dict[str, Any]:
    """Seconds per stage, and memory."""
    beyond = sum(seconds for stage, seconds in result.timing.items() if stage not in _OUTSIDE)
    return {
        "crops": result.crops,
        "tracks": result.tracks,
        **{f"{stage}, s": round(seconds, 1) for stage, seconds in result.timing.items()},
        "beyond decoding and inference, s": round(beyond, 1),
        "memory, MB": _memory(),
        "page, MB": round(result.page.stat().st_size / 1e6, 1),
    }


def _memory() -> int:
    """The most memory that the process has held so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _adaptation(model: Path, folder: Path, seeds: Sequence[int]) -> Rows:
    rows: Rows = []
    for seed in seeds:
        result = adapt(model, _TARGET, folder / f"seed-{seed}", evaluate=_OTHERS, seed=seed, report=_say)
        for item in result.rounds:
            rows.append(
                {
                    "seed": seed,
                    "round": item.number or "source",
                    "people": item.people,
                    "outliers": item.outliers,
                    "cohesion": item.cohesion and round(item.cohesion, 3),
                    "pairwise F": item.pair_f and round(item.pair_f, 3),
                    "mAP": item.mean_average_precision and round(item.mean_average_precision, 3),
                    "rank-1": item.rank1 and round(item.rank1, 3),
                }
            )
    return rows


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _table(rows: Rows) -> list[str]:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return [*lines, *("| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts named, and write a dated table of them."""
    parser = argparse.ArgumentParser(prog="python -m rtool.benchmarks.gallery.gallery_bench")
    parser.add_argument("parts", nargs="*", metavar="PART", help="threshold, size, many, adaptation; by default all")
    parser.add_argument("--model", type=Path, default=DEMO_MODEL, help="the ONNX file of all parts")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, help="folder to keep, in which adaptations are continued")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the dated files go")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        known: Mapping[str, Callable[[], Rows]] = {
            "threshold": lambda: _threshold(options.model, folder),
            "size": lambda: _size(options.model, folder),
            "many": _many,
            "adaptation": lambda: _adaptation(options.model, folder, options.seeds),
        }
        if unknown := set(options.parts) - known.keys():
            parser.error(f"unknown part {min(unknown)}; expected {', '.join(known)}")
        measured = {part: known[part]() for part in options.parts or known}
    now = datetime.now(UTC)
    machine = describe_machine()
    name = f"{now:%Y-%m-%d}-gallery-{options.model.stem}"
    document = {"date": now.isoformat(timespec="seconds"), "machine": machine, "measured": measured}
    (options.results / f"{name}.json").write_text(json.dumps(document, indent=1, default=str) + "\n")
    lines = [f"# Gallery with {options.model.name}, {now:%Y-%m-%d}", ""]
    for part, rows in measured.items():
        lines += [f"## {part}", "", *_table(rows), ""]
    (options.results / f"{name}.md").write_text("\n".join(lines))
    sys.stdout.write("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
