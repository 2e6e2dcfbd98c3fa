"""One run of the study: a small network trained with a margin loss alone, or with matching beside it, and its scores.

The network trains through the learner and the optimizer steps of `finetune`. The tested people are others than those
trained on. Each pair is scored clean, and with the second image behind a mask.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from ...converters.records.preprocessing import Preprocessing
from ...finetune.config.config import FinetuneConfig
from ...finetune.data.loading import Batch
from ...finetune.data.samplers import plan_pk
from ...finetune.matching.described import Described
from ...finetune.matching.map_losses import find_network_map, matching_model
from ...finetune.matching.visibility import visibility_target
from ...finetune.network.learner import Learner, embedding_of
from ...finetune.network.networks import Network, images_to_tensor
from ...finetune.training.assembly import build_heads, build_learner
from ...finetune.training.stepping import Stepper
from .masked_faces import SIDE, MaskedFaces

__all__ = ["WEIGHTS", "network", "run"]

_PREPROCESSING = Preprocessing(SIDE, SIDE, (127.5,) * 3, (127.5,) * 3, "rgb", "bilinear")
_PEOPLE, _IMAGES = 12, 4
_FAR = 1e-2
_CPU = torch.device("cpu")
WEIGHTS = (0.7, 0.5, 0.3)
"""Weights of the embedding in a combined score; the matcher has the rest."""


def network(seed: int) -> Network:
    """An untrained network of 0.35 M parameters: stages of 24, 48 and 96 channels, 6x6 places, 128 numbers."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 3
    for width in (24, 48, 96):
        for inputs, stride in ((channels, 2), (width, 1)):
            layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)]
        channels = width
    tail = [nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * 96, 128), nn.BatchNorm1d(128)]
    return Network("small", nn.Sequential(*layers, *tail), _PREPROCESSING, 128, lambda *_: None)


def run(
    train: MaskedFaces, test: MaskedFaces, losses: list[Mapping[str, Any]], *, seed: int, steps: int, share: float = 0.5
) -> dict[str, Any]:
    """Train and measure.

    Args:
        train: Faces to learn from.
        test: Faces of other people, each with one mask.
        losses: As in a configuration.
        seed: Of weights, order and which images are masked.
        steps: Optimizer steps; a tenth of them warms up, and a third of them before the matcher weighs places by
            visibility.
        share: Of the images that are masked.
    """
    config = FinetuneConfig.model_validate(
        {
            "seed": seed,
            "model": {"reference": "-", "channels_last": False},
            "data": {"train": "-", "batch": _PEOPLE * _IMAGES},
            "augment": {"mask": share},
            "losses": losses,
            "optimizer": {"kind": "adamw", "lr": 3e-3, "weight_decay": 5e-4, "clip": 5.0},
        }
    )
    made = network(seed)
    tap = find_network_map(config, made)
    torch.manual_seed(seed)
    heads = build_heads(config, 128, int(train.identities.max()) + 1, tap)
    learner, _ = build_learner(config, made, heads, None, None, tap)
    stepper = Stepper(config, learner, _PREPROCESSING, _CPU)
    started = time.process_time()
    lost: torch.Tensor = torch.zeros(len(losses))
    for step, batch in enumerate(_batches(train, seed, steps, share)):
        if step in (0, steps // 3):
            stepper.begin_epoch(0 if step == 0 else 1)
        warm = min(1.0, (step + 1) / (0.1 * steps))
        lost = stepper.step([batch], warm * 0.5 * (1 + np.cos(np.pi * step / steps)))[0]
    seconds = time.process_time() - started
    learner.eval()
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "losses": [round(float(each), 4) for each in lost],
        **_measured(learner, made, test),
    }


def _batches(faces: MaskedFaces, seed: int, steps: int, share: float) -> Iterator[Batch]:
    """`steps` batches, half of whose images are mirrored and a share masked."""
    rng = np.random.default_rng(seed)
    done = 0
    while done < steps:
        for row in plan_pk(faces.identities, None, identities_per_batch=_PEOPLE, images_per_identity=_IMAGES, rng=rng)[
            : steps - done
        ]:
            hidden = rng.random(len(row)) < share
            which = rng.integers(faces.masked.shape[1], size=len(row))
            pixels = np.where(hidden[:, None, None, None], faces.masked[row, which], faces.clean[row])
            visible = np.where(hidden[:, None, None], faces.visible[row, which], 255)
            flip = rng.random(len(row)) < 0.5
            pixels[flip], visible[flip] = pixels[flip, :, ::-1], visible[flip, :, ::-1]
            shown = torch.from_numpy(visible[:, None].astype(np.float32) / 255)
            yield Batch(torch.from_numpy(pixels), torch.from_numpy(faces.identities[row]), (), visible=shown)
            done += 1


@torch.no_grad()
def _measured(learner: Learner, made: Network, faces: MaskedFaces) -> dict[str, Any]:
    """TAR at FAR 1e-2 of all pairs, by embedding and, where there is a matcher, by it and by both."""
    same = faces.identities[:, None] == faces.identities[None]
    found: dict[str, Any] = {}
    model = matching_model(learner, 0)
    clean, masked = (_described(learner, made, pixels) for pixels in (faces.clean, faces.masked[:, 0]))
    for name, probes in (("clean", clean), ("masked", masked)):
        cosines = (F.normalize(clean.embeddings) @ F.normalize(probes.embeddings).T).numpy()
        found[f"{name}.embedding"] = _tar(cosines, same)
        if model is None:
            continue
        for told in (True, False) if model.uses_visibility else (False,):
            scores = model.matcher(
                clean.maps, probes.maps, *((clean.visible, probes.visible) if told else (None, None))
            ).numpy()
            how = "matcher" if told == model.uses_visibility else "matcher_untold"
            found[f"{name}.{how}"] = _tar(scores, same)
            for weight in WEIGHTS:
                joined = weight * _standard(cosines) + (1 - weight) * _standard(scores)
                found[f"{name}.{how.replace('matcher', 'combined')}{weight:g}"] = _tar(joined, same)
    if masked.visible is not None and model is not None:
        shown = torch.from_numpy(faces.visible[:, :1].astype(np.float32) / 255)
        target, _ = visibility_target(shown, (masked.visible.shape[2], masked.visible.shape[3]))
        found["visibility_error"] = round(float((masked.visible - target).abs().mean()), 4)
        found["visibility_error_of_1"] = round(float((1 - target).abs().mean()), 4)
    return found


@torch.no_grad()
def _described(learner: Learner, made: Network, pixels: NDArray[np.uint8]) -> Described:
    """Embeddings with mirror images added, and maps without."""
    images = images_to_tensor(torch.from_numpy(pixels), _PREPROCESSING, _CPU, False)
    mirrored = embedding_of(made.module(images.flip(3)), 0)
    model = matching_model(learner, 0)
    if model is None:
        embeddings = embedding_of(made.module(images), 0)
        return Described(embeddings + mirrored, torch.zeros(len(images), 0), None)
    seen = model.describe(images)
    return Described(seen.embeddings + mirrored, seen.maps, seen.visible)


def _standard(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    others = ~np.eye(len(scores), dtype=bool)
    standard: NDArray[np.float32] = (scores - scores[others].mean()) / scores[others].std()
    return standard


def _tar(scores: NDArray[np.float32], same: NDArray[np.bool_]) -> float:
    """The share of pairs of one person, an image and itself left out, above a threshold that 1 % of the others pass."""
    impostors = np.sort(scores[~same])[::-1]
    threshold = impostors[int(_FAR * len(impostors))]
    genuine = scores[same & ~np.eye(len(scores), dtype=bool)]
    return round(float((genuine > threshold).mean()), 4)
