"""What losing the training code costs: fine-tuning from the fused ONNX file beside fine-tuning the original checkpoint.

    python -m rtool.benchmarks.training.lost_code                 both subjects, tuning and five pairs each
    python -m rtool.benchmarks.training.lost_code people --work D one of them; D goes on where it was stopped

One pair: a network with BatchNorm is trained here on pictures of one camera set. One arm fine-tunes that checkpoint on
other people under another camera set. Two arms have only the ONNX file exported from it, whose BatchNorms are folded:
it is converted, its BatchNorms are restored, calibrated on 256 of the new training images or of the old ones (the code
was lost, not the pictures), and it is fine-tuned alike.
Seed, data, order, augmentation and number of steps are the same in all arms; each has its own learning rate, the best
of `_RATES` on a sixth seed whose people and cameras are in no pair. All are measured after the last step, on people
that none has seen. A pair has people, cameras, weights and order of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import torch

from ...converters import export, onnx2torch
from ...converters.bundles.reference import load_model
from ...finetune.finetuning import FinetuneResult, finetune
from ...finetune.runs.calibration_images import CalibrationImages
from ...finetune.runs.data_record import load_data_record
from ...finetune.runs.progress_display import ProgressDisplay
from ..machine import describe_machine
from ..places import EXAMPLES, RESULTS
from .finetune_quality import small_network, write_small_network
from .lost_code_table import summarise, write_page

__all__ = ["main"]

_SEEDS = (0, 1, 2, 3, 4)
_TUNING_SEED = 5
_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
_OLD = "recovered on old images"
_ARMS = ("original", "recovered", _OLD)
_CALIBRATION = 256
_COMMON = (
    "evaluation.every=1000",
    "evaluation.first=false",
    "tracking.tensorboard=false",
    "threads=1",
    "device=cpu",
    "optimizer.head_lr=null",
    "model.size=null",
)


@dataclass(frozen=True)
class _Subject:
    """What is recognised: where the data come from, and how the source network and each arm are trained."""

    metric: str
    source_recipe: str
    source: tuple[str, ...]
    target_recipe: str
    target: tuple[str, ...]
    data: str
    sizes: tuple[str, str, str]
    """Identities and images of the source, the target and the measured set."""
    height_width: tuple[int, int]
    preprocessing: str


_SUBJECTS = {
    "people": _Subject(
        metric="mAP",
        source_recipe="osnet_x0_25_synthetic.yaml",
        source=("epochs=6", "augment.erasing=0", "augment.pad_crop=2", "optimizer.lr=2e-3"),
        target_recipe="demo.yaml",
        target=("epochs=6", "augment.erasing=0", "augment.pad_crop=2"),
        data="synthetic-people:{sizes},seed={seed},cameras={cameras},size=64x32",
        sizes=("identities=120,images=12", "identities=80,images=12", "identities=150,images=12"),
        height_width=(64, 32),
        preprocessing="imagenet",
    ),
    "faces": _Subject(
        metric="tar_at_far_1e2",
        source_recipe="faces_synthetic.yaml",
        source=("epochs=8", "steps_per_epoch=null", "optimizer.lr=2e-3", "schedule.warmup_epochs=1"),
        target_recipe="faces_synthetic.yaml",
        target=("epochs=8", "steps_per_epoch=null", "schedule.warmup_epochs=0.5"),
        data="synthetic-faces:{sizes},seed={seed},cameras={cameras},size=32x32",
        sizes=("identities=120,images=20", "identities=80,images=20", "identities=150,images=10"),
        height_width=(32, 32),
        preprocessing="arcface",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs that the work folder lacks; returns 1 when a criterion is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.training.lost_code", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"{', '.join(_SUBJECTS)}; default: both")
    parser.add_argument("--work", type=Path, default=Path("runs/lost-code"), help="journal and trained source networks")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the dated files")
    options = parser.parse_args(arguments)
    unknown = set(options.subjects) - set(_SUBJECTS)
    if unknown:
        parser.error(f"no subject {', '.join(sorted(unknown))}; known: {', '.join(_SUBJECTS)}")
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    for subject in options.subjects or _SUBJECTS:
        _Study(subject, options.work).run()
    runs = [run for name in _SUBJECTS for run in _read(_journal(options.work, name))]
    paired_runs = [run for run in runs if run["seed"] in _SEEDS]
    metrics = {name: subject.metric for name, subject in _SUBJECTS.items()}
    summary = {
        f"{name}{suffix}": figures
        for arm, suffix in (("recovered", ""), (_OLD, ", calibrated on old images"))
        for name, figures in summarise(_against_original(paired_runs, arm), metrics).items()
    }
    now = datetime.now(UTC)
    report = {"date": now.isoformat(timespec="seconds"), "machine": describe_machine(), "result": summary, "runs": runs}
    path = options.results / f"{now:%Y-%m-%d}-lost-code.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_page(path.with_suffix(".md"), summary, f"{now:%Y-%m-%d}")
    print(json.dumps(summary, indent=2), path, sep="\n")  # noqa: T201
    return 0 if summary and all(figures["passed"] for figures in summary.values()) else 1


def _against_original(runs: Sequence[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    """The runs of two arms, the second under the name that the table knows."""
    return [run | {"arm": "recovered"} if run["arm"] == arm else run for run in runs if run["arm"] in ("original", arm)]


class _Study:
    """The runs of one subject, in a journal of JSON lines, each written when its run has ended."""

    def __init__(self, name: str, work: Path) -> None:
        self._name, self._subject, self._work = name, _SUBJECTS[name], work
        self._path = _journal(work, name)
        self._runs = _read(self._path)

    def run(self) -> None:
        """Tune each arm's rate, then train every arm of every pair at it."""
        for rate in _RATES:
            for arm in _ARMS:
                self._make(_TUNING_SEED, arm, rate)
        for seed in _SEEDS:
            for arm in _ARMS:
                self._make(seed, arm, self._tuned(arm))

    def _tuned(self, arm: str) -> float:
        tried = [run for run in self._runs if run["seed"] == _TUNING_SEED and run["arm"] == arm]
        best = max(tried, key=lambda run: float(run[self._subject.metric]))
        return float(best["rate"])

    def _make(self, seed: int, arm: str, rate: float) -> None:
        if any((run["seed"], run["arm"], run["rate"]) == (seed, arm, rate) for run in self._runs):
            return
        started = time.process_time()
        reference = self._sources(seed)[arm]
        output = self._work / f"{self._name}-runs"
        changes = [
            *self._subject.target,
            *self._data(seed),
            f"optimizer.lr={rate}",
            f"model.reference={reference}",
            f"model.restore_bn={'true' if arm == 'recovered' else 'false'}",
        ]
        result = self._train(self._subject.target_recipe, changes, seed, output)
        record = load_data_record(result.last)
        run = {
            "subject": self._name,
            "seed": seed,
            "arm": arm,
            "rate": rate,
            self._subject.metric: round(float(result.metrics[self._subject.metric]), 5),
            "steps": result.steps,
            "data": None if record is None else record.source[:12],
            "cpu_seconds": round(time.process_time() - started, 1),
        }
        shutil.rmtree(output)
        self._runs.append(run)
        with self._path.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(run) + "\n")
        print(json.dumps(run), flush=True)  # noqa: T201

    def _sources(self, seed: int) -> dict[str, Path]:
        """The trained checkpoint, and the bundles converted from its fused export."""
        folder = self._work / f"{self._name}-source-{seed}"
        calibrated = folder / "calibrated.rtool"
        original, fused, recovered = folder / "original.rtool", folder / "fused.onnx", folder / "recovered.rtool"
        if not recovered.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            changes = [*self._subject.source, *self._data(seed, source=True)]
            changes.append(f"model.preprocessing={self._subject.preprocessing}")
            untrained = write_small_network(folder / "untrained.onnx", size=self._subject.height_width, seed=seed)
            changes.append(f"model.reference={untrained}")
            result = self._train(self._subject.source_recipe, changes, seed, folder / "training")
            shutil.copytree(result.last, original)
            score = result.metrics[self._subject.metric]
            print(f"{self._name} {seed}: {self._subject.metric} of the source {score:.4f}", flush=True)  # noqa: T201
            _export_fused(original, fused)
            onnx2torch(fused, recovered)
        if not calibrated.is_dir():
            old = self._data(seed, source=True)[0].removeprefix("data.train=")
            images = CalibrationImages(old, _CALIBRATION, ProgressDisplay(quiet=True))
            onnx2torch(fused, calibrated, restore_bn=True, calibrate=images.batches)
        return {"original": original, "recovered": recovered, _OLD: calibrated}

    def _train(self, recipe: str, changes: Sequence[str], seed: int, output: Path) -> FinetuneResult:
        return finetune(EXAMPLES / recipe, [*_COMMON, *changes, f"seed={seed}", f"output={output}"], quiet=True).whole()

    def _data(self, seed: int, *, source: bool = False) -> tuple[str, str]:
        """Training and measured data of a pair; neither people nor cameras are in another one."""

        def spec(part: int, cameras: int) -> str:
            people = 100 + 10 * seed + part
            return self._subject.data.format(sizes=self._subject.sizes[part], seed=people, cameras=cameras)

        if source:
            return f"data.train={spec(0, 2 * seed)}", f"data.evaluate={spec(2, 2 * seed)}"
        return f"data.train={spec(1, 2 * seed + 1)}", f"data.evaluate={spec(2, 2 * seed + 1)}"


def _export_fused(original: Path, fused: Path) -> None:
    """Export a checkpoint without any BatchNorm; writing back into the graph that it came from would keep them."""
    model = load_model(original)
    module = small_network().eval()
    module.load_state_dict(model.module.state_dict())
    export(module, fused, batch="dynamic", preprocessing=model.preprocessing)
    if any(node.op_type == "BatchNormalization" for node in onnx.load(fused).graph.node):
        raise RuntimeError(f"{fused}: still has a BatchNormalization, so nothing was lost")


def _journal(work: Path, subject: str) -> Path:
    return work / f"{subject}.jsonl"


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
