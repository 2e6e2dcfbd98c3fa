"""The accuracy of fine-tuning on unseen identities: three seeds per recipe, compared with a target.

The recipes are files of `examples/` with the changes named here, so that users can run what is measured. The AT&T faces
("Parameterisation of a stochastic model for human face identification", Samaria and Harter, 1994) are not part of the
repository; they are measured where their folder is given. A seed determines weights, order, augmentation and, for those
faces, which 10 of the 30 people are held out; the accuracy of raw pixels on the same people is reported beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...converters.records.preprocessing import Preprocessing
from ...errors import InputError, nearest
from ...finetune import open_dataset
from ...finetune.data.decoding import read_pixels
from ...finetune.data.pair_drawing import draw_pairs
from ...finetune.data.splits import split_by_identity
from ...finetune.evaluation.pairs.verification import measure_verification
from ...finetune.finetuning import finetune
from ..places import EXAMPLES

__all__ = ["Recipe", "combine_seeds", "measure_quality", "quality_recipes", "small_network", "write_small_network"]

_HELD_OUT = 0.3333
"""The 30 people of AT&T: 20 for training, 10 for testing."""


@dataclass(frozen=True)
class Recipe:
    """One row of the benchmark."""

    example: str
    metric: str
    target: float
    overrides: tuple[str, ...]
    small_network: bool = False
    """Start from the untrained network of `write_small_network`."""


def quality_recipes(att_faces: Path | None) -> dict[str, Recipe]:
    """Recipes by name; the AT&T faces only where their folder is given."""
    small = ("model.size=null", "optimizer.lr=2e-3")
    # As many images as for the faces. In ten epochs, random erasing lowers the accuracy.
    data = "data.train=synthetic-people:identities=200,images=20,seed=1,cameras=0"
    people = ("epochs=10", data, "augment.erasing=0", "augment.pad_crop=3")
    recipes = {
        "synthetic faces": Recipe("faces_synthetic.yaml", "accuracy", 0.95, small, True),
        "synthetic people": Recipe("osnet_x0_25_synthetic.yaml", "rank1", 0.85, people),
    }
    if att_faces is not None:
        recipes["AT&T faces"] = Recipe(
            "faces_synthetic.yaml",
            "tar_at_far_1e2",
            0.60,
            (
                *small,
                f"data.train={att_faces}",
                "data.evaluate=null",
                f"data.holdout={_HELD_OUT}",
                "data.batch=50",
                "epochs=60",
                "steps_per_epoch=null",
                "augment.pad_crop=4",
                "augment.erasing=0.3",
                "augment.photometric=0.3",
            ),
            True,
        )
    return recipes


def measure_quality(
    *, seeds: Sequence[int] = (0, 1, 2), names: Sequence[str] = (), att_faces: Path | None = None
) -> dict[str, Any]:
    """Run the recipes `names` (by default all) with `seeds`; accuracies are 0..1.

    Raises:
        InputError: an unknown name.
    """
    recipes = quality_recipes(att_faces)
    results: dict[str, Any] = {}
    for name in names or recipes:
        if name not in recipes:
            raise InputError(f"no recipe '{name}'; {nearest(name, recipes)} (AT&T faces need --att-faces FOLDER)")
        recipe = recipes[name]
        results[name] = {
            "example": recipe.example,
            "changes": [change for change in recipe.overrides if change != f"data.train={att_faces}"],
            "metric": recipe.metric,
            "target": recipe.target,
            "runs": {str(seed): _run(recipe, seed, att_faces) for seed in seeds},
        }
    return combine_seeds({}, results)


def combine_seeds(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The combined runs of two calls, without earlier runs of a recipe that has changed."""
    combined = dict(earlier)
    for name, result in later.items():
        old = earlier.get(name, {})
        same = all(old.get(key) == result[key] for key in ("example", "changes", "metric", "target"))
        runs = {**(old["runs"] if same else {}), **result["runs"]}
        runs = dict(sorted(runs.items(), key=lambda item: int(item[0])))
        reached = [run[result["metric"]] for run in runs.values()]
        passed = min(reached) >= result["target"]
        combined[name] = {**result, "runs": runs, "reached": reached, "passed": passed}
    return combined


def _run(recipe: Recipe, seed: int, att_faces: Path | None) -> dict[str, Any]:
    """The last evaluation of one run, and for the AT&T faces the accuracy of raw pixels on the same people."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"seed={seed}", "evaluation.every=1000", f"output={folder}", "tracking.tensorboard=false"]
        if recipe.small_network:
            fixed.append(f"model.reference={write_small_network(Path(folder) / 'small.onnx')}")
        metrics = dict(finetune(EXAMPLES / recipe.example, [*recipe.overrides, *fixed], quiet=True).whole().metrics)
    if att_faces is not None and f"data.train={att_faces}" in recipe.overrides:
        metrics["raw_pixels_tar_at_far_1e2"] = _raw_pixels(att_faces, seed)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in metrics.items()}


def _raw_pixels(folder: Path, seed: int) -> float | None:
    """TAR at FAR 1e-2 with grey 64 x 64 pixels as embeddings, on the people held out with `seed`."""
    _, held_out = split_by_identity(open_dataset(folder), _HELD_OUT, seed)
    images = read_pixels(held_out, Preprocessing(64, 64, (0.0,), (1.0,), "grey", "bicubic").resize)
    embeddings = (images.values.reshape(len(held_out), -1) / 255 - 0.5).astype(np.float32)
    return measure_verification(embeddings, held_out.identities, draw_pairs(held_out.identities)).tar_at_far_1e2


def write_small_network(path: Path, *, size: tuple[int, int] = (64, 64), seed: int = 0) -> Path:
    """The untrained `small_network` as an ONNX file that keeps its BatchNorms.

    Args:
        path: The file to write.
        size: Height and width of its images in pixels.
        seed: Seeds its weights.
    """
    torch.manual_seed(seed)
    module = small_network()
    torch.onnx.export(
        module.eval(),
        (torch.zeros(2, 3, *size),),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["images"],
        dynamic_axes={"images": {0: "batch"}},
    )
    return path


def small_network() -> nn.Module:
    """A plain convolutional network of 1.3 M parameters: images [N, 3, H, W] -> embeddings [N, 128]."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128, 256):
        for inputs, stride in ((channels, 2), (width, 1)):
            layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(1024, 128), nn.BatchNorm1d(128))
