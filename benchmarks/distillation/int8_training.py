"""What training is worth for int8: the demo's model, every layer quantised, before and after; in `make bench-distil`.

For each seed, images of one draw calibrate and train, and 360 images drawn afterwards are measured on: the smallest
cosine to the float32 embedding after calibration alone, after merging the linear 1x1 convolutions, and after training;
and mAP of unseen identities beside that of float32. Exit code 1 where a trained model is below .993 or loses half a
point.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ...converters.exporting.int8_latency import measure_int8_latency
from ...converters.precision.int8 import calibrated
from ...converters.precision.pointwise_merging import merge_pointwise
from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.runners import OnnxRunner, run_in_batches
from ...finetune import open_dataset
from ...finetune.data.decoding import read_pixels
from ...finetune.distillation.quantised.int8_distilling import Int8Training, train_int8
from ...finetune.distillation.quantised.varied_views import varied_views
from ...finetune.evaluation.evaluation import evaluate_embeddings
from ..machine import describe_machine
from ..places import DEMO_MODEL, RESULTS

__all__ = ["main"]

_SIZE = Preprocessing(128, 64)
_CAMERAS = 0
_LEAST, _LOSS = 0.993, 0.005
Images = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the seeds that the journal lacks, and write the dated file."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.distillation.int8_training", description="Train the demo's model in int8."
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--journal", type=Path, help="a file to append seeds to and to go on from")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the dated file goes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    known = _read(options.journal)
    for seed in options.seeds:
        if str(seed) not in known:
            known[str(seed)] = _measure(seed)
            if options.journal is not None:
                with options.journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"seed": seed, **known[str(seed)]}) + "\n")
        sys.stdout.write(f"seed {seed}: {json.dumps(known[str(seed)])}\n")
        sys.stdout.flush()
    runs = {str(seed): known[str(seed)] for seed in options.seeds}
    least = min(run["trained"]["least_cosine"] for run in runs.values())
    loss = max(run["mAP_float32"] - run["trained"]["mAP"] for run in runs.values())
    stamp = time.strftime("%Y-%m-%d")
    document = {"date": stamp, "machine": describe_machine(), "training": vars(Int8Training()), "runs": runs}
    document |= {"least_cosine": least, "largest_loss_of_mAP": round(loss, 5)}
    path = options.results / f"{stamp}-int8-training.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")
    return 0 if least >= _LEAST and loss <= _LOSS else 1


def _measure(seed: int) -> dict[str, Any]:
    started = time.process_time()
    float32 = onnx.load(DEMO_MODEL)
    pixels = _pixels(1000 + seed, 32, 12)
    seen, unseen = _SIZE.normalise(pixels), _SIZE.normalise(_pixels(2000 + seed, 30, 12))
    merged, _ = merge_pointwise(float32)
    graphs = {}
    for name, model in (("calibrated", float32), ("merged", merged)):
        with calibrated(model, seen, every_layer=True) as quantiser:
            graphs[name] = quantiser.quantise()
    training = Int8Training(seed=seed)
    views = varied_views(pixels, _SIZE, copies=training.copies, seed=seed)
    graphs["trained"] = train_int8(float32, views, training)
    wanted = run_in_batches(OnnxRunner(float32), unseen, 16)[0]
    found: dict[str, Any] = {"images_seen": len(seen), "images_unseen": len(unseen), "mAP_float32": _map(float32)}
    for name, graph in graphs.items():
        cosines = _cosines(run_in_batches(OnnxRunner(graph), unseen, 16)[0], wanted)
        found[name] = {
            "least_cosine": round(float(cosines.min()), 5),
            "mean_cosine": round(float(cosines.mean()), 5),
            "mAP": _map(graph),
            "latency": str(measure_int8_latency(float32, graph, (unseen,))),
        }
    return {**found, "seconds": round(time.process_time() - started, 1)}


def _pixels(seed: int, identities: int, images: int) -> NDArray[np.uint8]:
    source = f"synthetic-people:identities={identities},images={images},seed={seed},cameras={_CAMERAS}"
    pixels: NDArray[np.uint8] = read_pixels(open_dataset(source), _SIZE.resize).values
    return pixels


def _map(model: onnx.ModelProto) -> float:
    """MAP of 60 unseen identities."""
    runner = OnnxRunner(model)

    def embed(pixels: NDArray[np.uint8]) -> Images:
        found: Images = run_in_batches(runner, _SIZE.normalise(pixels), 16)[0]
        return found

    data = open_dataset(f"synthetic-people:identities=60,images=12,seed=2,cameras={_CAMERAS}")
    return round(float(vars(evaluate_embeddings(embed, data, resize=_SIZE.resize))["mAP"]), 5)


def _cosines(found: Images, wanted: Images) -> Images:
    cosines: Images = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    return cosines


def _read(journal: Path | None) -> dict[str, dict[str, Any]]:
    lines = journal.read_text(encoding="utf-8").splitlines() if journal is not None and journal.exists() else []
    return {str(entry.pop("seed")): entry for entry in map(json.loads, lines)}


if __name__ == "__main__":
    sys.exit(main())
