"""JPEG decoding: rtool's reader beside Pillow, simplejpeg and cv2, and what the loader makes of it.

    python -m rtool.benchmarks.training.decoding_bench          three minutes on two quiet cores

The decoders run in `.peers/decoders`, an environment of their own that is made on first use; cv2 is not a dependency
of rtool. Images are drawn faces and people with noise, as JPEG of quality 90 and 4:2:0. Times of one decoder are CPU
seconds of one thread; rates of the loader with worker processes are by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from ...converters.records.preprocessing import ARCFACE, IMAGENET, Preprocessing
from ...errors import PlatformError
from ...finetune.config.augmentation import AugmentConfig
from ...finetune.data.dataset import Dataset
from ...finetune.data.decoding import read_image
from ...finetune.data.formats.sources import open_dataset
from ...finetune.data.jpeg import second_decoder
from ...finetune.data.loading import EpochSamples, TrainingPixels, iterate_batches
from ...finetune.data.reduced_scale import with_reduced_images
from ..machine import describe_machine
from ..places import PACKAGE, RESULTS

__all__ = ["main"]

_PEERS = PACKAGE / ".peers" / "decoders"
_PINNED = ("pillow==13.0.0", "numpy==2.4.6", "simplejpeg==1.9.0", "opencv-python-headless==5.0.0.93")
_IMAGES: dict[str, tuple[int, int, Preprocessing]] = {
    "face, 112x112": (112, 112, ARCFACE),
    "person, 256x128": (256, 128, IMAGENET),
    "person, 1024x512": (1024, 512, IMAGENET),
}
"""Height and width of the files, and what the network takes."""
_ROUNDS = 9
_BATCH = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the dated JSON and its table."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.training.decoding_bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the dated files")
    parser.add_argument("--files", type=int, default=96, help="images of each kind")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        roots = {name: _write_images(Path(folder) / str(i), name, options.files) for i, name in enumerate(_IMAGES)}
        peers = _measure_peers(list(roots.values()))
        rows = {}
        for name, root in roots.items():
            found = peers["folders"][str(root)]
            rows[name] = {**found["images_per_second"], **_measure_reader(root, _IMAGES[name])}
            rows[name]["differ"] = found["files_that_differ_from_pillow"]
        loader = _measure_loader(next(iter(roots.values())))
    now = datetime.now(UTC)
    result = {"load_average": round(os.getloadavg()[0], 1), "images_per_second": rows, "loader": loader}
    report = {
        "date": now.isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": peers["versions"],
        "result": result,
    }
    path = options.output / f"{now:%Y-%m-%d}-decoding.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(_page(result, f"{now:%Y-%m-%d}"), encoding="utf-8")
    print(json.dumps(result, indent=2), path, sep="\n")  # noqa: T201
    return 0


def _write_images(root: Path, name: str, count: int) -> Path:
    height, width, _ = _IMAGES[name]
    kind = "faces" if name.startswith("face") else "people"
    drawn = open_dataset(f"synthetic-{kind}:identities={count // 4},images=4,size={height}x{width}")
    rng = np.random.default_rng(0)
    root.mkdir()
    for index in range(len(drawn)):
        pixels = np.asarray(drawn.images[index]) + rng.normal(0, 4, (height, width, 3))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(root / f"{drawn.identities[index]:03d}_{index}.jpg", quality=90, subsampling=2)
    return root


def _measure_peers(roots: list[Path]) -> dict[str, Any]:
    """The decoders alone, in their environment.

    Raises:
        PlatformError: it cannot be made.
    """
    python = _PEERS / "bin" / "python"
    if not python.exists():
        venv.create(_PEERS, with_pip=True)
    try:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *_PINNED], check=True, capture_output=True)
    except subprocess.CalledProcessError as error:
        raise PlatformError(f"{_PEERS}: pip could not install {', '.join(_PINNED)}; check the network") from error
    worker = Path(__file__).with_name("decoding_worker.py")
    done = subprocess.run([python, "-P", worker, *roots], check=True, capture_output=True, text=True)
    reply: dict[str, Any] = json.loads(done.stdout)
    return reply


def _dataset(root: Path) -> Dataset:
    """The files as a data set; one identity per four files."""
    table = root / "list.csv"
    if not table.exists():
        lines = [f"{path.name},{path.name.split('_')[0]}" for path in sorted(root.glob("*.jpg"))]
        table.write_text("\n".join(["path,identity", *lines]) + "\n", encoding="utf-8")
    return open_dataset(table)


def _measure_reader(root: Path, kind: tuple[int, int, Preprocessing]) -> dict[str, int]:
    """Images per second of rtool's own reader, from the file to pixels at the network's size."""
    height, _, preprocessing = kind
    whole = _dataset(root)

    def by_pillow() -> None:
        with patch.object(second_decoder, "_installed", lambda: False):
            _read_all(whole, preprocessing)

    ways: dict[str, Callable[[], None]] = {
        "rtool with Pillow": by_pillow,
        "rtool with simplejpeg": lambda: _read_all(whole, preprocessing),
    }
    if height >= 2 * preprocessing.height:
        reduced = with_reduced_images(whole, preprocessing.height, preprocessing.width)
        ways["rtool, decode: reduced"] = lambda: _read_all(reduced, preprocessing)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(_ROUNDS + 1):
        for name, read in ways.items():
            started = time.process_time()
            read()
            if turn:
                seconds[name].append(time.process_time() - started)
    return {name: round(len(whole) / min(times)) for name, times in seconds.items()}


def _read_all(dataset: Dataset, preprocessing: Preprocessing) -> None:
    for index in range(len(dataset)):
        read_image(dataset, preprocessing.resize, index)


def _measure_loader(root: Path, batches: int = 40) -> dict[str, dict[str, int]]:
    """Images per second, by the clock, of batches of faces with a flip, by number of workers and decoder."""
    dataset = _dataset(root)
    pixels = TrainingPixels(dataset, ARCFACE.resize, None)
    samples = EpochSamples(pixels, AugmentConfig(flip=0.5), ARCFACE.mean, seed=0, epoch=0)
    plan = np.random.default_rng(0).integers(len(dataset), size=(batches, _BATCH))
    rates: dict[str, dict[str, int]] = {}
    for workers in (0, 1, 2):
        for name, installed in (("with Pillow", False), ("with simplejpeg", True)):
            with patch.object(second_decoder, "_installed", lambda there=installed: there):
                made = iterate_batches(samples, plan, slice(None), workers)
                next(made)
                started = time.perf_counter()
                count = sum(len(batch.labels) for batch in made)
                rate = round(count / (time.perf_counter() - started))
            rates.setdefault(f"{workers} workers", {})[name] = rate
    return rates


def _page(result: dict[str, Any], date: str) -> str:
    columns = ["Pillow", "cv2", "simplejpeg", "rtool with Pillow", "rtool with simplejpeg", "rtool, decode: reduced"]
    rows = result["images_per_second"].items()
    lines = [
        f"# JPEG decoding, images per second, {date}",
        "",
        "One thread, CPU time; the first three from bytes to RGB pixels, rtool's from the file to pixels at the",
        "network's size (`make bench-decoding`).",
        "",
        f"| image | {' | '.join(columns)} | files whose pixels are not Pillow's: simplejpeg, cv2 |",
        f"|---|{'---|' * (len(columns) + 1)}",
    ]
    for name, row in rows:
        figures = [f"{row[column]:,}" if column in row else "–" for column in columns]
        lines.append(f"| {name} | {' | '.join(figures)} | {row['differ']['simplejpeg']}, {row['differ']['cv2']} |")
    lines += [
        "",
        f"Batches of {_BATCH} faces of 112x112 with a flip, by the clock, at a load of {result['load_average']} on",
        f"{os.cpu_count()} cores (above that number, other programs slow the workers down):",
        "",
        "| workers | with Pillow | with simplejpeg |",
        "|---|---|---|",
    ]
    for workers, rate in result["loader"].items():
        lines.append(f"| {workers} | {rate['with Pillow']:,} | {rate['with simplejpeg']:,} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
