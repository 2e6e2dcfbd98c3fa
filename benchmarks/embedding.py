"""What `rtool embed` takes beside the processor time of its parts, decoding and inference, on drawn JPEG files.

Decoding and inference are measured one after the other on one thread, in processor time; `embed` in wall time. Divided
among the cores the parts are the least that it can take. Rounds take turns, and medians are kept, since the machine may
be shared. Beside it stand the processor time of the same parts while all cores do them at once, which caches and clocks
make longer on most machines; the processor time of `embed`, which tells what it adds to its parts however busy the
machine is; and the wall time of the whole command, which also starts Python and opens the model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..finetune.data.formats.sources import open_dataset
from ..finetune.embedding.embedders import open_embedder
from ..finetune.embedding.image_embeddings import embed
from ..finetune.embedding.image_sources import open_images
from ..finetune.processes.cores import available_cores
from .machine import describe_machine
from .places import DEMO_MODEL, RESULTS

__all__ = ["draw_jpegs", "main", "measure"]

GATE = 1.15
"""Most that wall time may be of the parts' processor time, divided among the cores."""
_IMAGES = 5000
_ROUNDS = 5


def draw_jpegs(folder: Path, count: int) -> None:
    """Draw `count` people of 256 x 128 pixels as JPEG files."""
    people = open_dataset(f"synthetic-people:identities={max(2, count // 10)},images=10,seed=3,size=256x128")
    for index in range(count):
        people.images[index % len(people)].save(folder / f"{index:05d}.jpg", quality=90)


class _Parts:
    """Decoding and inference, one after the other on one thread, of every `step`th image from `first`."""

    def __init__(self, model: str | Path, folder: Path, first: int, step: int) -> None:
        self.embedder = open_embedder(model, threads=1, batch="auto")
        found = open_images(folder)
        self._images, self._numbers = found.images, range(first, len(found), step)
        self._resize = self.embedder.preprocessing.resize
        self._pixels = np.stack([self._resize(self._images[number]) for number in self._numbers])

    def __len__(self) -> int:
        return len(self._numbers)

    def decode(self) -> None:
        """Read, decode and resize each image."""
        for number in self._numbers:  # indexing decodes: a list of images would hold them decoded
            self._resize(self._images[number])

    def infer(self) -> None:
        """Embed all images, decoded before."""
        for start in range(0, len(self._pixels), self.embedder.batch):
            self.embedder.embed(self._pixels[start : start + self.embedder.batch])


_share: Callable[[], float]
"""In a process of its own: does its share of the parts when all others do; returns its processor time."""


def _start(barrier: Any, model: str | Path, folder: Path, cores: int) -> None:
    global _share
    parts = _Parts(model, folder, barrier.wait(), cores)
    parts.infer()

    def share() -> float:
        barrier.wait()
        before = time.process_time()
        parts.decode()
        parts.infer()
        return time.process_time() - before

    _share = share


def _do_share(_: int) -> float:
    return _share()


def measure(model: str | Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of the parts on one thread and of `embed`, in turns; medians, and all rounds."""
    parts = _Parts(model, folder, 0, 1)
    parts.infer()  # the first calls allocate
    seconds: dict[str, list[float]] = {
        "decoding": [],
        "inference": [],
        "parts_on_all_cores": [],
        "embed": [],
        "embed_processor": [],
        "command": [],
    }
    cores = available_cores()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(cores)
    with ProcessPoolExecutor(cores, context, _start, (barrier, model, folder, cores)) as processes:
        for _ in range(rounds):
            seconds["decoding"].append(_time(parts.decode, time.process_time))
            seconds["inference"].append(_time(parts.infer, time.process_time))
            seconds["parts_on_all_cores"].append(sum(processes.map(_do_share, range(cores))))
            before = time.process_time()
            seconds["embed"].append(_time(lambda: embed(parts.embedder, folder), time.perf_counter))
            seconds["embed_processor"].append(time.process_time() - before)
            seconds["command"].append(_time(lambda: _command(model, folder), time.perf_counter))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    least = (medians["decoding"] + medians["inference"]) / cores
    return {
        "images": len(parts),
        "batch": parts.embedder.batch,
        "cores": cores,
        "seconds": medians,
        "rounds": seconds,
        "least": least,
        "ratio": medians["embed"] / least,
        "ratio_to_parts_on_all_cores": medians["embed"] / (medians["parts_on_all_cores"] / cores),
        "processor_ratio": medians["embed_processor"] / (medians["decoding"] + medians["inference"]),
        "images_per_second": len(parts) / medians["embed"],
    }


def _time(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def _command(model: str | Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        arguments = ["embed", str(model), str(folder), "-o", str(Path(out) / "out.npz"), "--quiet"]
        subprocess.run([sys.executable, "-m", "rtool", *arguments], check=True, capture_output=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the dated result, and return 1 where the gate is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.embedding", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=_IMAGES)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the dated file goes")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as text:
        draw_jpegs(Path(text), options.images)
        found = measure(DEMO_MODEL, Path(text), options.rounds)
    now = datetime.now(UTC)
    path = options.results / f"{now:%Y-%m-%d}-embed.json"
    document = {
        "date": now.isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "load_average": os.getloadavg(),
        "gate": GATE,
        **found,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    sys.stdout.write(
        f"{found['images']} JPEG files: embed {found['seconds']['embed']:.2f} s, {found['ratio']:.2f} times the parts "
        f"({found['seconds']['decoding']:.2f} + {found['seconds']['inference']:.2f} s of one core) on {found['cores']} "
        f"cores; gate {GATE}; {found['ratio_to_parts_on_all_cores']:.2f} times the parts with all cores at work\n"
        f"{path}\n"
    )
    return 0 if found["ratio"] <= GATE else 1


if __name__ == "__main__":
    sys.exit(main())
