"""`params.json` of older re-identification trainers (pytorch-reid-lite and its relatives) as a configuration of ours.

Their keys lie flat or in sections (`lr.base_lr` or `base_lr`, `tri_loss_params.margin` or `tri_loss_margin`); both are
read. What has no counterpart is returned by name, never dropped in silence. Two of their faults are not taken over:
`fine_tune` froze weights but left BatchNorm in training mode, and average precision was a trapezoid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError, InputError
from .config import FinetuneConfig

__all__ = ["convert_params"]

_SECTIONS = {
    "lr": "",
    "batch_sampling_params": "batch_sampling_",
    "tri_loss_params": "tri_loss_",
    "evaluation_params": "evaluation_",
    "model_params": "model_",
    "data_augmentation": "augmentation_",
}
_ARCHITECTURES = {"resnet_50": "resnet50", "osnet": "osnet_x1_0"}


def convert_params(path: Path) -> tuple[FinetuneConfig, tuple[str, ...]]:
    """The configuration, and the names of settings that have no counterpart in it.

    Raises:
        InputError: the file is missing or no JSON object.
        ConfigError: its values make no valid configuration.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    settings = _Settings(content)
    try:
        config = FinetuneConfig.model_validate(_convert(settings))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"{path}: {problems}") from error
    return config, settings.unused()


class _Settings:
    """Settings by flat name, which remember what was asked for."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._values: dict[str, Any] = {}
        self._used: set[str] = set()
        for key, value in content.items():
            if isinstance(value, dict) and key in _SECTIONS:
                prefix = _SECTIONS[key]
                self._values.update({f"{prefix}{name}".removeprefix("model_model_"): v for name, v in value.items()})
            else:
                self._values[key] = value

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of these settings that has a value."""
        self._used.update(names)
        return next((self._values[name] for name in names if self._values.get(name) not in (None, "")), default)

    def unused(self) -> tuple[str, ...]:
        """Settings nobody asked for."""
        return tuple(name for name in self._values if name not in self._used)


def _convert(s: _Settings) -> dict[str, Any]:
    lr = s.get("base_lr", default=0.01)
    epochs = s.get("epochs", "max_epoch", default=60)
    data: dict[str, Any] = {
        "epochs": epochs,
        "model": _model(s),
        "data": _data(s),
        "augment": {
            "flip": 0.5 if s.get("augmentation_mirror", "mirror", default=False) else 0.0,
            "erasing": 0.5 if s.get("augmentation_random_erasing", "random_erasing", default=False) else 0.0,
            "colour": 0.5 if s.get("augmentation_colour_jitering", "colour_jitering", default=False) else 0.0,
        },
        "losses": _losses(s),
        "optimizer": {
            "kind": "sgd" if s.get("optimizer", default="sgd") == "sgd" else "adamw",
            "lr": lr,
            "head_lr": s.get("fc_lr", default=lr),
            "weight_decay": s.get("weight_decay", default=5e-4),
        },
        "schedule": _schedule(s, epochs),
        "evaluation": {"every": s.get("evaluation_epoch", default=1)},
    }
    output = s.get("working_dir", "output_dir")
    if output:
        data["output"] = output
    return data


def _model(s: _Settings) -> dict[str, Any]:
    parts = s.get("model_pcb_n_parts", "pcb_n_parts", default=0)
    name = s.get("model_model", "model", default="resnet_50")
    snapshot = s.get("pretrain_snapshot")
    model: dict[str, Any] = {"reference": "pcb" if parts else _ARCHITECTURES.get(name, name)}
    if parts:
        model["options"] = {"parts": parts, "last_stride": s.get("model_last_conv_stride", default=1)}
    if snapshot and str(snapshot).endswith(".onnx"):
        model["reference"] = snapshot
        model.pop("options", None)
    elif snapshot:
        model["weights"] = snapshot
    height, width = s.get("img_h"), s.get("img_w")
    if height and width:
        model["size"] = [height, width]
    if s.get("fine_tune", default=False):
        model["freeze"] = {"*": None}
    return model


def _data(s: _Settings) -> dict[str, Any]:
    batch = s.get("batch_size", "batch_sampling_batch_size", default=64)
    p, k = s.get("batch_sampling_P"), s.get("batch_sampling_K", default=4)
    data: dict[str, Any] = {
        "train": s.get("batches_dir", "train_dir", "data_dir", default="path/to/images"),
        "batch": batch,
        "workers": s.get("num_preprocess_workers", default=0),
    }
    if s.get("batch_sampling_class_balanced", "class_balanced", default=False):
        data.update(sampler="pk", images_per_identity=k, batch=p * k if p else batch)
    return data


def _losses(s: _Settings) -> list[dict[str, Any]]:
    parts = s.get("model_pcb_n_parts", "pcb_n_parts", default=0)
    classify, metric = s.get("tri_loss_lambda_cls", default=1), s.get("tri_loss_lambda_tri", default=0)
    margin = s.get("tri_loss_margin", default="soft_margin")
    losses: list[dict[str, Any]] = []
    if classify:
        # The older trainers add the parts' losses up; the mean times their number is the same.
        by_part = {"kind": "pcb", "parts": parts, "weight": classify * parts}
        losses.append(by_part if parts else {"kind": "softmax", "weight": classify, "smoothing": 0.0})
    if metric:
        soft = margin in ("soft_margin", "soft", 0)
        mining = "weighted" if s.get("tri_loss_use_adaptive_weight", default=False) else "hard"
        triplet = {"kind": "triplet", "weight": metric, "mining": mining, "normalise": False}
        losses.append({**triplet, "margin": "soft" if soft else margin})
    return losses


def _schedule(s: _Settings, epochs: int) -> dict[str, Any]:
    step, gamma = s.get("decay_step"), s.get("decay_gamma", default=0.1)
    if not step:
        return {"kind": "constant"}
    milestones = step if isinstance(step, list) else list(range(step, epochs, step))
    return {"kind": "multistep", "milestones": milestones, "gamma": gamma}
