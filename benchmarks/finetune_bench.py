"""What fine-tuning costs beside what one could write by hand: `make bench-finetune`, or `python -m` this module.

Four measurements, chosen by name: `step` (the trainer's step over an ONNX-derived network against a plain loop over the
hand-written one), `data` (share of a step spent waiting for 112 x 112 JPEGs), `partial_fc` (step time, peak memory and
rows touched against a dense head) and `quality` (three seeds of the synthetic sets). Results, with machine, versions
and raw samples, go to a dated JSON file. Times are of the processor, on one thread, interleaved, so that what else runs
on the machine does not enter into ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..converters import build_architecture, export, onnx_to_torch, restore_batchnorm
from ..converters.preprocessing import Preprocessing
from ..finetune import load_config
from ..finetune.config import FinetuneConfig
from ..finetune.data.loading import Batch
from ..finetune.finetuning import finetune
from ..finetune.heads import build_head
from ..finetune.learner import Learner
from ..finetune.margin_losses import cosine_logits, margin_logits
from ..finetune.stepping import Stepper
from .machine import describe_machine

__all__ = ["main"]

_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_CLASSES = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named measurements and write the result file."""
    parser = argparse.ArgumentParser(description="Measure fine-tuning.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(_MEASUREMENTS)}; all by default")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    for name in options.names or _MEASUREMENTS:
        torch.set_num_threads(1)
        started = time.time()
        result = _MEASUREMENTS[name]()
        stamp = time.strftime("%Y-%m-%d")
        report = {"measurement": name, "date": stamp, "machine": describe_machine(), "result": result}
        report["seconds"] = round(time.time() - started, 1)
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / f"{stamp}-finetune-{name}-cpu.json"
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(result, indent=2), path, sep="\n")  # noqa: T201
    return 0


def measure_steps() -> dict[str, Any]:
    """Processor seconds a training step: the trainer on the converted network, a plain loop on the original."""
    cases = {"osnet_x0_25": Preprocessing(128, 64), "iresnet18": Preprocessing(112, 112)}
    return {name: _measure_network(name, size, batch=32 if size.width == 64 else 16) for name, size in cases.items()}


def _measure_network(name: str, size: Preprocessing, batch: int, repeats: int = 7) -> dict[str, Any]:
    options = {} if name.startswith("osnet") else {"input_size": (size.height, size.width)}
    original = build_architecture(name, **options)
    _give_statistics(original)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fused.onnx"
        export(original, path, inputs=np.zeros((2, 3, size.height, size.width), np.float32))
        converted = onnx_to_torch(path)
    restored = restore_batchnorm(converted, [torch.randn(16, 3, size.height, size.width)]).restored
    pixels = torch.randint(0, 256, (batch, size.height, size.width, 3), dtype=torch.uint8)
    labels = torch.randint(0, _CLASSES, (batch,))
    ours = _trainer_step(converted, size, pixels, labels)
    plain = _plain_step(original, size, pixels, labels)
    times = _interleaved({"trainer_on_converted": ours, "plain_loop_on_original": plain}, repeats)
    ratio = median(times["trainer_on_converted"]) / median(times["plain_loop_on_original"])
    return {"batch": batch, "restored_batchnorms": len(restored), "ratio": round(ratio, 4), "seconds": times}


def _give_statistics(module: nn.Module) -> None:
    """Statistics and affine parameters as after training; fresh ones would leave nothing to fold or to restore."""
    torch.manual_seed(0)
    for batchnorm in module.modules():
        if isinstance(batchnorm, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (batchnorm.running_mean, batchnorm.running_var, batchnorm.weight, batchnorm.bias):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5)


def _trainer_step(module: nn.Module, size: Preprocessing, pixels: Tensor, labels: Tensor) -> Callable[[], None]:
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-"},
            "data": {"train": "-"},
            "losses": [{"kind": "arcface"}],
            "optimizer": {"kind": "sgd", "lr": 1e-4},
        }
    )
    heads = nn.ModuleList([build_head(config.losses[0], 512, _CLASSES)])
    learner = Learner(module, heads, output=0, autocast=None).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stepper = Stepper(config, learner, size, torch.device("cpu"))
    stepper.begin_epoch(0)
    return lambda: stepper.step([Batch(pixels, labels, ())], 1.0) and None


def _plain_step(module: nn.Module, size: Preprocessing, pixels: Tensor, labels: Tensor) -> Callable[[], None]:
    """The loop one writes by hand, with the same memory order and optimizer."""
    module = module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    weight = nn.Parameter(torch.randn(_CLASSES, 512) * 0.01)
    optimizer = torch.optim.SGD([*module.parameters(), weight], lr=1e-4, momentum=0.9, weight_decay=5e-4)
    mean, std = torch.tensor(size.mean), torch.tensor(size.std)

    def step() -> None:
        images = ((pixels.float() - mean) / std).permute(0, 3, 1, 2)
        optimizer.zero_grad()
        loss = F.cross_entropy(margin_logits(cosine_logits(module(images), weight), labels), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _interleaved(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each step, taken in turns after two of each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 2):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if turn >= 2:
                times[name].append(round(time.process_time() - started, 5))
    return times


def measure_data() -> dict[str, Any]:
    """Share of a run's time spent waiting for 112 x 112 JPEGs, by the number of workers."""
    shares = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_faces(root / "faces")
        config = load_config(
            _EXAMPLES / "faces_synthetic.yaml",
            [
                f"data.train={root / 'faces'}",
                "data.evaluate=synthetic-faces:identities=4,images=10,size=112x112",
                "data.memory_gb=0",
                "data.batch=64",
                "model.reference=mobilefacenet",
                "model.size=[112, 112]",
                "augment.erasing=0.5",
                "epochs=1",
                "steps_per_epoch=12",
                "threads=1",
                f"output={root / 'runs'}",
            ],
        )
        for workers in (0, 1, 2):
            data = config.data.model_copy(update={"workers": workers})
            run = finetune(config.model_copy(update={"data": data}), quiet=True).run_dir
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            shares[f"workers_{workers}"] = {key: rows[0][key] for key in ("data_wait", "images_per_second")}
    return shares


def _write_faces(root: Path, identities: int = 40, images: int = 24) -> None:
    from ..finetune import open_dataset

    dataset = open_dataset(f"synthetic-faces:identities={identities},images={images},size=112x112")
    for index, name in enumerate(dataset.names):
        folder = root / name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        dataset.images[index].save(folder / f"{name}.jpg", quality=90)


def measure_partial_fc() -> dict[str, Any]:
    """Step time, peak memory and touched rows at several numbers of identities; each in a process of its own."""
    cases = [("dense", 100_000, 1.0), ("dense", 1_000_000, 1.0)]
    cases += [("partial_fc", classes, 0.1) for classes in (100_000, 1_000_000, 2_000_000)]
    rows = []
    for kind, classes, rate in cases:
        program = f"from rtool.benchmarks.partial_fc_step import run; run({kind!r}, {classes}, {rate})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
    return {"embedding": 512, "batch": 128, "measured": rows, "computed_on_8_gpus": _memory_table()}


def _memory_table() -> list[dict[str, Any]]:
    """Bytes a GPU of the class layer: weights, gradient, momentum, and the logits of the global batch with gradient."""
    table = []
    for classes in (10_000_000, 29_000_000):
        rows, batch = classes / 8, 8 * 128
        for kind, share in (("dense gradient and momentum (arcface_torch v2)", 1.0), ("row-sparse, rate 0.1", 0.1)):
            weights, momentum = 4 * 512 * rows, 4 * 512 * rows
            gradient = 4 * 512 * rows * share
            logits = 2 * 4 * batch * rows * 0.1
            total = weights + momentum + gradient + logits
            table.append({"identities": classes, "kind": kind, "gigabytes_a_gpu": round(total / 1e9, 2)})
    return table


def measure_quality(seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """Three seeds each: the target, and what was reached on identities not trained on."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        small = _write_small_network(Path(folder) / "small.onnx")
        for name, (recipe, metric, target, overrides) in _quality_recipes(small).items():
            reached = []
            for seed in seeds:
                fixed = [f"seed={seed}", "evaluation.every=1000", f"output={folder}", "tracking.tensorboard=false"]
                reached.append(finetune(_EXAMPLES / recipe, [*overrides, *fixed], quiet=True).metrics)
            results[name] = {"metric": metric, "target": target, "values": [r[metric] for r in reached], "all": reached}
    return results


def _quality_recipes(small: Path) -> dict[str, tuple[str, str, float, list[str]]]:
    """Example configuration, metric, target and changes. The faces of AT&T are measured where their folder is given."""
    backbone = [f"model.reference={small}", "model.size=null", "optimizer.lr=2e-3"]
    recipes = {
        "synthetic faces": ("faces_synthetic.yaml", "accuracy", 0.95, backbone),
        "synthetic people": (
            "osnet_x0_25_synthetic.yaml",
            "rank1",
            0.85,
            ["epochs=10", "data.train=synthetic-people:identities=150,images=12,seed=1,cameras=0"],
        ),
    }
    folder = os.environ.get("RTOOL_ORL_FACES")
    if folder:
        changes = [f"data.train={folder}", "data.evaluate=null", "data.holdout=0.3333", "data.batch=50", "epochs=60"]
        augment = ["augment.pad_crop=4", "augment.erasing=0.3", "augment.photometric=0.3", "steps_per_epoch=null"]
        recipes["AT&T faces"] = ("faces_synthetic.yaml", "tar_at_far_1e2", 0.60, [*backbone, *changes, *augment])
    return recipes


def _write_small_network(path: Path) -> Path:
    """A plain convolutional network of 1.3 M parameters, untrained, as an ONNX file that keeps its BatchNorms."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128, 256):
        for inputs, stride in ((channels, 2), (width, 1)):
            layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)]
        channels = width
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(1024, 128), nn.BatchNorm1d(128))
    torch.onnx.export(
        module.eval(),
        (torch.zeros(2, 3, 64, 64),),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["images"],
        dynamic_axes={"images": {0: "batch"}},
    )
    return path


_MEASUREMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "step": measure_steps,
    "data": measure_data,
    "partial_fc": measure_partial_fc,
    "quality": measure_quality,
}

if __name__ == "__main__":
    sys.exit(main())
