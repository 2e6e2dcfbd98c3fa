"""`rtool demo`: the whole flow on built-in data, with every step measured.

A fused ONNX file, trained on people seen by one set of cameras, is made trainable, fine-tuned on people seen by another
set, distilled into a student of half its resolution, exported, and served by Triton beside the original model. The demo
makes the calls that a user would make. Its recipe is `examples/demo.yaml`; accuracy is measured on the recipe's
`data.evaluate`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...converters import export, onnx2torch
from ...converters.bundles.reference import open_runner
from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.runners import Runner
from ...errors import InputError
from ...finetune import load_config, open_dataset
from ...finetune.config.config import FinetuneConfig
from ...finetune.data.decoding import Pixels, read_pixels
from ...finetune.distilling import distil
from ...finetune.embedding.embed_images import embed_images
from ...finetune.embedding.embedders import Embedder, open_embedder
from ...finetune.evaluation.evaluation import evaluate_pixels
from ...finetune.evaluation.ranks.retrieval import RetrievalResult
from ...finetune.finetuning import finetune
from ...serving import TritonServer, deploy
from ...serving.gallery.galleries import gallery
from ...serving.gallery.settings import GallerySettings
from ..compare import compare_runners
from ..load import LoadReport, serving
from ..machine import describe_machine
from ..places import DEMO_MODEL, EXAMPLES
from ..timing import LatencyRow, latency
from .rank_figure import Figure, Gallery, rank_figure
from .report import render_report
from .summary import DemoSummary, Hop, Quality

__all__ = ["DemoResult", "demo"]

_RECIPE = EXAMPLES / "demo.yaml"
_MODEL = "osnet_x0_25_b16"
_BATCH = 16
_EXACT = 1e-5
_HALF_COSINE = 0.9999
_REQUIRED_GAIN = 0.15
_STUDENT = "osnet_x0_25"
_STUDENT_SIZE = (64, 32)
"""Height and width in pixels of the images that the student sees: half of its teacher's."""
_MARKER = "summary.json"
_RESTORED = "restored.rtool"


@dataclass(frozen=True)
class DemoResult:
    """The summary, and the files of the summary (JSON) and the report (HTML)."""

    summary: DemoSummary
    summary_file: Path
    report: Path


def demo(
    folder: str | Path = "runs/demo",
    *,
    seed: int = 0,
    overrides: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> DemoResult:
    """Run the flow and write everything into `folder`; an earlier demo in it is replaced.

    `seed` is that of data and training. `overrides` change the recipe, as `key=value`.

    `progress` is called with the name of each step as it starts.

    Raises:
        InputError: `folder` is not empty and has no demo in it.
        PlatformError: this machine cannot run Triton.
    """
    flow = _Flow(_fresh_folder(Path(folder)), progress or (lambda _: None))
    config = _load_recipe(flow.folder, seed, overrides)
    crops = _make_trainable(flow, config)
    trained = _fine_tune(flow, config)
    with flow.step("evaluate before and after"):
        source, tuned = open_embedder(DEMO_MODEL), open_embedder(trained)
        before, after = _quality(source, crops), _quality(tuned, crops)
        figures = _figures((source, tuned), crops)
    student = _distil(flow, config, trained)
    distilled = _quality(open_embedder(student), _read_target(config, student))
    _find_people(flow, config, trained)
    fp32, fp16 = _export(flow, trained, crops)
    small = export(student, flow.folder / "distilled.onnx", batch=_BATCH).path
    with flow.step("publish to the Triton repository"):
        repository = _publish(flow.folder / "model_repository", fp32, fp16, crops)
        flow.artefacts["Triton repository"] = str(repository)
    with flow.step("measure latency in process"):
        rows = _latency(
            {"source": DEMO_MODEL, "fine-tuned fp32": fp32, "fine-tuned fp16": fp16, "distilled student fp32": small}
        )
    with flow.step("serve with Triton"):
        load = _serve(flow, repository, fp32, fp16, crops)
    summary = DemoSummary(
        source=DEMO_MODEL.name,
        hops=tuple(flow.hops),
        before=before,
        after=after,
        distilled=distilled,
        latency=rows,
        serving=load,
        seconds=flow.seconds,
        artefacts=flow.artefacts,
        machine=describe_machine(),
        required_gain=_REQUIRED_GAIN,
    )
    return _write(summary, figures, flow.folder)


@dataclass
class _Flow:
    """The folder of the demo, and what its steps have measured so far."""

    folder: Path
    progress: Callable[[str], None]
    hops: list[Hop] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    artefacts: dict[str, str] = field(default_factory=dict)
    runners: dict[str, Runner] = field(default_factory=dict)
    """Open models by file: the candidate of one hop is the reference of the next."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.progress(f"• {name}")
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def runner(self, reference: str | Path) -> Runner:
        """The model behind a reference; a file is opened once, a served model per hop."""
        name = str(reference)
        if name.startswith("triton://"):
            return open_runner(name)
        if name not in self.runners:
            self.runners[name] = open_runner(name)
        return self.runners[name]

    def hop(
        self,
        name: str,
        reference: str | Path,
        candidate: str | Path,
        batch: NDArray[np.float32],
        *,
        max_rel: float | None = None,
        min_cosine: float | None = None,
    ) -> None:
        report = compare_runners(
            self.runner(reference),
            self.runner(candidate),
            [batch],
            described="real crops",
            max_rel=max_rel,
            min_cosine=min_cosine,
        )
        self.hops.append(Hop.from_report(name, report))


@dataclass(frozen=True)
class _Crops:
    """The target data: pixels uint8 [N, H, W, 3], the model's preprocessing, and one normalised batch for parity."""

    pixels: Pixels
    preprocessing: Preprocessing

    @property
    def batch(self) -> NDArray[np.float32]:
        return self.preprocessing.normalise(self.pixels.values[:_BATCH])


def _fresh_folder(folder: Path) -> Path:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARKER).is_file():
            raise InputError(
                f"{folder}: is not empty and has no demo in it ({_MARKER}); choose another folder with --output"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Written first, so that an interrupted demo can be run again in the same folder.
    (folder / _MARKER).write_text("{}\n", encoding="utf-8")
    return folder


def _read_target(config: FinetuneConfig, bundle: Path) -> _Crops:
    if config.data.evaluate is None:
        raise InputError(f"{_RECIPE.name}: data.evaluate must name the data on which the demo is measured")
    preprocessing = open_embedder(bundle).preprocessing
    return _Crops(read_pixels(open_dataset(config.data.evaluate), preprocessing.resize), preprocessing)


def _calibration(config: FinetuneConfig, preprocessing: Preprocessing) -> list[Tensor]:
    """Training images, float32 [16, 3, H, W] per batch, from which the restored BatchNorms get their statistics."""
    dataset = open_dataset(config.data.train)
    count = min(config.model.calibration_images, len(dataset))
    chosen = np.random.default_rng(config.seed).choice(len(dataset), count, replace=False)
    pixels = read_pixels(dataset.subset(np.sort(chosen)), preprocessing.resize).values
    starts = range(0, count, _BATCH)
    return [torch.from_numpy(preprocessing.normalise(pixels[start : start + _BATCH])) for start in starts]


def _load_recipe(folder: Path, seed: int, overrides: Sequence[str]) -> FinetuneConfig:
    """The demo's configuration, which trains the bundle that `_make_trainable` writes."""
    own = [
        f"model.reference={folder / _RESTORED}",
        "model.restore_bn=false",
        f"output={folder / 'training'}",
        f"seed={seed}",
    ]
    config: FinetuneConfig = load_config(_RECIPE, [*own, *overrides])
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    return config


def _make_trainable(flow: _Flow, config: FinetuneConfig) -> _Crops:
    """Convert the fused file, restore its BatchNorms, and compare each bundle with what it was made from."""
    restored = flow.folder / _RESTORED
    with flow.step("convert the fused ONNX file"):
        bundle = onnx2torch(DEMO_MODEL, flow.folder / "source.rtool").output
    with flow.step("draw people under the target cameras"):
        crops = _read_target(config, bundle)
    with flow.step("restore BatchNorm"):
        onnx2torch(DEMO_MODEL, restored, restore_bn=True, calibrate=_calibration(config, crops.preprocessing))
    flow.hop("fused ONNX to torch", DEMO_MODEL, bundle, crops.batch, max_rel=_EXACT)
    flow.hop("fused to restored BatchNorm", bundle, restored, crops.batch, max_rel=_EXACT)
    flow.artefacts |= {"bundle": str(bundle), "restored bundle": str(restored)}
    return crops


def _fine_tune(flow: _Flow, config: FinetuneConfig) -> Path:
    """Train the restored bundle, also if an override names another model; returns the best checkpoint."""
    model = config.model.model_copy(update={"reference": str(flow.folder / _RESTORED)})
    with flow.step("fine-tune on the target cameras"):
        run = finetune(config.model_copy(update={"model": model})).whole()
    flow.artefacts["run"] = str(run.run_dir)
    return run.best or run.last


def _distil(flow: _Flow, config: FinetuneConfig, teacher: Path) -> Path:
    """Train the source's architecture, at half the resolution, to embed as `teacher` does; no label is read.

    It starts from the restored weights, and takes the recipe's batches and rate.
    """
    changes = {
        "output": flow.folder / "distillation",
        "seed": config.seed,
        "threads": config.threads,
        "epochs": config.epochs,
        "steps_per_epoch": config.steps_per_epoch,
        "model.weights": flow.folder / _RESTORED / "weights.safetensors",
        "model.size": _STUDENT_SIZE,
        "data.batch": config.data.batch,
        "augment.flip": config.augment.flip,
        "optimizer.lr": config.optimizer.lr,
    }
    overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in changes.items() if value is not None]
    with flow.step("distil a student of half the resolution, without labels"):
        run = distil(teacher, _STUDENT, str(config.data.train), overrides, labels=False).whole()
    flow.artefacts["student"] = str(run.last)
    return run.last


def _export(flow: _Flow, trained: Path, crops: _Crops) -> tuple[Path, Path]:
    """Export the trained model to fp32 and fp16 ONNX files, and compare each with what it was made from."""
    with flow.step("export fp32 and fp16 at batch 16"):
        fp32 = export(trained, flow.folder / "finetuned.onnx", batch=_BATCH).path
        fp16 = export(trained, flow.folder / "finetuned_fp16.onnx", batch=_BATCH, fp16=True).path
    flow.hop("trained module to fp32 ONNX", trained, fp32, crops.batch, max_rel=_EXACT)
    flow.hop("fp32 ONNX to fp16 ONNX", fp32, fp16, crops.batch, min_cosine=_HALF_COSINE)
    flow.artefacts |= {"fp32 model": str(fp32), "fp16 model": str(fp16)}
    return fp32, fp16


def _quality(model: Embedder, crops: _Crops) -> Quality:
    result = evaluate_pixels(model.embed, crops.pixels, "retrieval")
    if not isinstance(result, RetrievalResult):
        raise TypeError(f"the retrieval protocol gave a {type(result).__name__}")
    return Quality(result.mAP, result.rank1)


def _find_people(flow: _Flow, config: FinetuneConfig, trained: Path) -> None:
    """A gallery of the target's people by the trained model, which sees no label; drawn targets alone are in tracks."""
    target = config.data.evaluate
    if isinstance(target, str) and target.startswith("synthetic-people"):
        with flow.step("find the people without labels"):
            found = gallery(trained, target, flow.folder / "gallery", settings=GallerySettings(device="cpu"))
        flow.artefacts["gallery"] = str(found.page)


def _figures(models: Sequence[Embedder], crops: _Crops, *, queries: int = 4, shown: int = 10) -> list[Figure]:
    """Random queries, each with the images whose embeddings are nearest, for every model."""
    dataset = crops.pixels.dataset
    gallery = Gallery(crops.pixels.values, dataset.identities, dataset.cameras)
    embeddings = [embed_images(model.embed, crops.pixels.values, flip=False, batch=64) for model in models]
    picked = np.random.default_rng(0).choice(len(dataset), queries, replace=False)
    captions = (
        "Before: the nearest images from other cameras by the source model.",
        "After fine-tuning: the same queries.",
    )
    return [
        rank_figure(gallery, rows, picked.tolist(), shown=shown, caption=f"{caption} Green frames: same person.")
        for rows, caption in zip(embeddings, captions, strict=True)
    ]


def _publish(repository: Path, fp32: Path, fp16: Path, crops: _Crops) -> Path:
    """Publish the source model as version 1, the fine-tuned one as version 2, and fp16 as a model of its own."""
    warmup = {"images": crops.batch}
    deploy(DEMO_MODEL, name=_MODEL, repository=repository, batch=_BATCH, warmup=warmup)
    deploy(fp32, name=_MODEL, repository=repository, batch=_BATCH, warmup=warmup, also_serve=(1,))
    deploy(fp16, name=f"{_MODEL}_fp16", repository=repository, batch=_BATCH, warmup=warmup)
    return repository


def _latency(models: dict[str, Path]) -> tuple[LatencyRow, ...]:
    report = latency([str(path) for path in models.values()], batch=_BATCH, rounds=20)
    return tuple(LatencyRow(**{**asdict(row), "model": name}) for row, name in zip(report.rows, models, strict=True))


def _serve(flow: _Flow, repository: Path, fp32: Path, fp16: Path, crops: _Crops) -> LoadReport:
    with TritonServer(repository, log=flow.folder / "triton.log") as server:
        served: tuple[tuple[str, Path, str], ...] = (
            ("source ONNX to Triton version 1", DEMO_MODEL, f"{_MODEL}/1"),
            ("fp32 ONNX to Triton version 2", fp32, f"{_MODEL}/2"),
            ("fp16 ONNX to Triton", fp16, f"{_MODEL}_fp16"),
        )
        for name, path, model in served:
            flow.hop(name, path, f"triton://{server.url}/{model}", crops.batch, max_rel=0.0)
        return serving(server.url, _MODEL, concurrency=2, window=1.0, max_windows=6)


def _write(summary: DemoSummary, figures: Sequence[Figure], folder: Path) -> DemoResult:
    numbers: dict[str, Any] = {**asdict(summary), "gain": summary.gain, "passed": summary.passed}
    summary_file, report = folder / _MARKER, folder / "report.html"
    page = render_report(summary, figures, title="rtool demo: from a fused ONNX file to Triton", command="rtool demo")
    report.write_text(page, encoding="utf-8")
    summary_file.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    return DemoResult(summary, summary_file, report)
