"""The cost of fine-tuning compared with a hand-written loop: `make bench-finetune`, or `python -m` this module.

Four measurements, chosen by name: `step` (the trainer's step with a network from ONNX, compared with a plain loop over
the hand-written one), `data` (share of a step spent waiting for 112 x 112 JPEGs), `partial_fc` (step time, peak memory
and rows touched, compared with a dense head) and `quality` (see `finetune_quality`). Results, with machine, versions
and samples, go to a dated JSON file, in which runs of several seeds on one day are combined. Times are CPU seconds of
one thread, measured in turns, so that other programs do not change the ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ...converters.records.preprocessing import ARCFACE, Preprocessing
from ...finetune import load_config, open_dataset
from ...finetune.config.config import FinetuneConfig
from ...finetune.data.loading import EpochSamples, TrainingPixels, iterate_batches
from ...finetune.finetuning import finetune
from ..machine import describe_machine
from ..places import EXAMPLES, RESULTS
from .finetune_quality import combine_seeds, measure_quality
from .partial_fc_step import measure_partial_fc
from .training_steps import build_step_pair

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named measurements and write their files; returns 1 when an accuracy target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.training.finetune_bench", description="Measure fine-tuning."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(_NAMES)}; default: all")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the dated files")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2), help="seeds of quality")
    parser.add_argument("--recipes", nargs="+", default=(), help="recipes of quality; default: all")
    parser.add_argument("--att-faces", type=Path, help="folder of the AT&T faces, for quality")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(_NAMES)
    if unknown:
        parser.error(f"no measurement {', '.join(sorted(unknown))}; known: {', '.join(_NAMES)}")
    options.output.mkdir(parents=True, exist_ok=True)
    passed = True
    for name in options.names or _NAMES:
        torch.set_num_threads(1)
        started = time.time()
        stamp = time.strftime("%Y-%m-%d")
        path = options.output / f"{stamp}-finetune-{name}-cpu.json"
        if name == "quality":
            result = measure_quality(seeds=options.seeds, names=options.recipes, att_faces=options.att_faces)
            passed &= all(recipe["passed"] for recipe in result.values())
            if path.exists():  # read only now: another call may have written it meanwhile
                result = combine_seeds(json.loads(path.read_text(encoding="utf-8"))["result"], result)
        else:
            result = _MEASUREMENTS[name]()
        report = {"measurement": name, "date": stamp, "machine": describe_machine(), "result": result}
        report["seconds"] = round(time.time() - started, 1)
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(result, indent=2), path, sep="\n")  # noqa: T201
    return 0 if passed else 1


def measure_steps() -> dict[str, Any]:
    """CPU seconds per training step: the trainer on the converted network, a plain loop on the original."""
    cases = {"osnet_x0_25": Preprocessing(128, 64), "iresnet18": Preprocessing(112, 112)}
    return {name: _measure_network(name, size, batch=32 if size.width == 64 else 16) for name, size in cases.items()}


def _measure_network(name: str, size: Preprocessing, batch: int, repeats: int = 15) -> dict[str, Any]:
    steps = build_step_pair(name, size, batch)
    times = _interleaved({"trainer_on_converted": steps.trainer, "plain_loop_on_original": steps.plain}, repeats)
    ratios = [a / b for a, b in zip(times["trainer_on_converted"], times["plain_loop_on_original"], strict=True)]
    low, high = _interval_of_median(ratios)
    return {
        "batch": batch,
        "restored_batchnorms": steps.restored,
        "ratio": round(median(ratios), 4),
        "ratio_95_percent_interval": [round(low, 4), round(high, 4)],
        "seconds": times,
    }


def _interval_of_median(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    sample = np.random.default_rng(0).choice(np.asarray(values), (draws, len(values)))
    low, high = np.percentile(np.median(sample, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _interleaved(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each step, measured in turns after two steps each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 2):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if turn >= 2:
                times[name].append(round(time.process_time() - started, 5))
    return times


def measure_data(workers: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """Share of a run's time spent waiting for 112 x 112 JPEGs, and the loader's own rate, per number of workers."""
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_faces(root / "faces")
        config = load_config(
            EXAMPLES / "faces_synthetic.yaml",
            [
                f"data.train={root / 'faces'}",
                "data.evaluate=synthetic-faces:identities=4,images=10,size=112x112",
                "data.memory_gb=0",
                "data.batch=64",
                "model.reference=mobilefacenet",
                "model.size=[112, 112]",
                "augment.erasing=0.5",
                "epochs=1",
                "steps_per_epoch=8",
                "threads=1",
                f"output={root / 'runs'}",
            ],
        )
        for count in workers:
            data = config.data.model_copy(update={"workers": count})
            run = finetune(config.model_copy(update={"data": data}), quiet=True).whole().run_dir
            rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            trained = next(row for row in rows if row["kind"] == "train")
            measured[f"workers_{count}"] = {
                "data_wait": round(trained["data_wait"], 4),
                "images_per_second": round(trained["images_per_second"], 1),
                "loader_alone_images_per_second": round(_loader_rate(config, count), 1),
            }
    return {"network": "mobilefacenet", "images": "112 x 112 JPEG, flip and erasing", "batch": 64, **measured}


def _loader_rate(config: FinetuneConfig, workers: int, images: int = 896) -> float:
    """Images per second of reading, decoding and augmenting alone, without start-up."""
    dataset = open_dataset(config.data.train)
    pixels = TrainingPixels(dataset, ARCFACE.resize, None)
    samples = EpochSamples(pixels, config.augment, ARCFACE.mean, seed=0, epoch=0)
    order = np.random.default_rng(0).permutation(len(dataset))[:images].reshape(-1, config.data.batch)
    batches = iterate_batches(samples, order, slice(0, config.data.batch), workers)
    next(batches)
    started = time.perf_counter()
    count = sum(len(batch.labels) for batch in batches)
    return count / (time.perf_counter() - started)


def _write_faces(root: Path, identities: int = 40, images: int = 24) -> None:
    dataset = open_dataset(f"synthetic-faces:identities={identities},images={images},size=112x112")
    for index, name in enumerate(dataset.names):
        folder = root / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        dataset.images[index].save(folder / f"{name}.jpg", quality=90)


_MEASUREMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "step": measure_steps,
    "data": measure_data,
    "partial_fc": measure_partial_fc,
}
_NAMES = (*_MEASUREMENTS, "quality")

if __name__ == "__main__":
    sys.exit(main())
