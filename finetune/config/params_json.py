"""`params.json` of older re-identification trainers (pytorch-reid-lite and its relatives) as a configuration of ours.

Their keys lie flat or in sections (`lr.base_lr` or `base_lr`, `tri_loss_params.margin` or `tri_loss_margin`); both are
read. Settings without a counterpart are returned by name, so that the user sees them. Two faults of theirs are not
copied: `fine_tune` froze weights but left BatchNorm in training mode, and average precision was a trapezoid.

Their networks are a pretrained stem and fresh layers above it (embedding, classifiers): `fine_tune` freezes the stem
alone, and `fc_lr` is the rate of all that is fresh. They apply weight decay to every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from ...converters.records.json_text import parse_json
from ...errors import ConfigError, InputError
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
_RESNET_STEM = ("conv1", "bn1", "layer?")
_LAYERS: Mapping[str, tuple[tuple[str, ...], str | None]] = {
    "resnet50": (_RESNET_STEM, "fc"),
    "pcb": (_RESNET_STEM, "conv5"),
    "osnet_x1_0": (("conv?",), "fc"),
}
"""Architecture -> patterns of the stem, and the fresh layer above it. Any other network is a stem as a whole."""
_OPTIMIZERS: Mapping[str, tuple[str, str | None]] = {
    "sgd": ("sgd", None),
    "nesterov": ("sgd", "optimizer nesterov (its momentum is sgd's ordinary one)"),
    "adam": ("adamw", "optimizer adam (its weight decay is adamw's, beside the gradient)"),
    "adamw": ("adamw", None),
}
"""Name -> ours, and what of it is left out."""


def convert_params(path: Path) -> tuple[FinetuneConfig, tuple[str, ...]]:
    """The configuration that a `params.json` describes, and the names of settings that have no counterpart in it.

    Raises:
        InputError: the file is missing or not a JSON object.
        ConfigError: its values make no valid configuration.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    settings = _Settings(path, content)
    try:
        config = FinetuneConfig.model_validate(_convert(settings))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"{path}: {problems}") from error
    return config, settings.unused()


class _Settings:
    """Settings by flat name, which record which of them were read. Numbers may be written as text."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        self._used: set[str] = set()
        self._left_out: list[str] = []
        for key, value in content.items():
            if isinstance(value, dict) and key in _SECTIONS:
                prefix = _SECTIONS[key]
                self._values.update({f"{prefix}{name}".removeprefix("model_model_"): v for name, v in value.items()})
            else:
                self._values[key] = value

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of these settings that has a value."""
        name = self._name(names)
        return default if name is None else self._values[name]

    def number(self, *names: str, default: float) -> float:
        """A finite number."""
        name = self._name(names)
        return default if name is None else self._number(name, self._values[name])

    def count(self, *names: str, default: int) -> int:
        """A whole number from 0 on."""
        value = self.number(*names, default=default)
        if value < 0 or value != int(value):
            self.refuse(self._name(names) or names[0], "a whole number from 0 on")
        return int(value)

    def numbers(self, name: str) -> list[float]:
        """A number or a list of them."""
        value = self.get(name, default=[])
        return [self._number(name, item) for item in (value if isinstance(value, list) else [value])]

    def flag(self, *names: str) -> bool:
        """True or false; false where it is missing."""
        value = self.get(*names, default=False)
        if value not in (True, False):
            self.refuse(self._name(names) or names[0], "true or false")
        return bool(value)

    def text(self, *names: str, default: str) -> str:
        """A text."""
        value = self.get(*names, default=default)
        if not isinstance(value, str):
            self.refuse(self._name(names) or names[0], "a text")
        return str(value)

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Refuse a setting.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self._path}: '{name}': expected {expected}, got {self._values[name]!r}")

    def leave_out(self, what: str) -> None:
        """Note what has no counterpart, of a setting that has one."""
        self._left_out.append(what)

    def unused(self) -> tuple[str, ...]:
        """Settings with a value that were not read, and what else has no counterpart."""
        unasked = [name for name, value in self._values.items() if name not in self._used and value not in (None, "")]
        return (*unasked, *self._left_out)

    def _name(self, names: tuple[str, ...]) -> str | None:
        self._used.update(names)
        return next((name for name in names if self._values.get(name) not in (None, "")), None)

    def _number(self, name: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            self.refuse(name, "a finite number")
        return number


def _convert(s: _Settings) -> dict[str, Any]:
    lr = s.number("base_lr", default=0.01)
    fresh_lr = s.number("fc_lr", default=lr)
    epochs = s.count("epochs", "max_epoch", default=60)
    model, fresh = _model(s)
    data: dict[str, Any] = {
        "epochs": epochs,
        "model": model,
        "data": _data(s),
        "augment": {
            "flip": 0.5 if s.flag("augmentation_mirror", "mirror") else 0.0,
            "erasing": 0.5 if s.flag("augmentation_random_erasing", "random_erasing") else 0.0,
            "colour": 0.5 if s.flag("augmentation_colour_jitering", "colour_jitering") else 0.0,
        },
        "losses": _losses(s),
        "optimizer": {
            "kind": _optimizer(s),
            "lr": lr,
            "head_lr": fresh_lr,
            "weight_decay": s.number("weight_decay", default=5e-4),
            "decay_norms": True,
        },
        "schedule": _schedule(s, epochs),
        "evaluation": {"every": s.count("evaluation_epoch", default=1)},
    }
    if fresh is not None and lr > 0 and fresh_lr != lr:
        data["optimizer"]["lr_multipliers"] = {fresh: fresh_lr / lr}
    output = s.get("working_dir", "output_dir")
    if output:
        data["output"] = output
    return data


def _optimizer(s: _Settings) -> str:
    name = s.text("optimizer", default="sgd")
    if name.lower() not in _OPTIMIZERS:
        s.refuse("optimizer", f"one of {', '.join(_OPTIMIZERS)}")
    kind, left_out = _OPTIMIZERS[name.lower()]
    if left_out is not None:
        s.leave_out(left_out)
    return kind


def _model(s: _Settings) -> tuple[dict[str, Any], str | None]:
    """The model section, and the fresh layer of the network."""
    parts = _parts(s)
    name = s.text("model_model", "model", default="resnet_50")
    snapshot = s.text("pretrain_snapshot", default="")
    model: dict[str, Any] = {"reference": "pcb" if parts else _ARCHITECTURES.get(name, name)}
    if parts:
        stride = s.count("model_last_conv_stride", default=1)
        model["options"] = {"parts": parts, "last_stride": stride}
    if snapshot.endswith(".onnx"):
        model["reference"] = snapshot
        model.pop("options", None)
    elif snapshot:
        model["weights"] = snapshot
    height, width = s.count("img_h", default=0), s.count("img_w", default=0)
    if height and width:
        model["size"] = [height, width]
    stem, fresh = _LAYERS.get(model["reference"], (("*",), None))
    if s.flag("fine_tune"):
        model["freeze"] = dict.fromkeys(stem)
    return model, fresh


def _parts(s: _Settings) -> int:
    return s.count("model_pcb_n_parts", "pcb_n_parts", default=0)


def _data(s: _Settings) -> dict[str, Any]:
    batch = s.count("batch_size", "batch_sampling_batch_size", default=64)
    p, k = s.count("batch_sampling_P", default=0), s.count("batch_sampling_K", default=4)
    data: dict[str, Any] = {
        "train": s.get("batches_dir", "train_dir", "data_dir", default="path/to/images"),
        "batch": batch,
        "workers": s.count("num_preprocess_workers", default=0),
    }
    if s.flag("batch_sampling_class_balanced", "class_balanced"):
        data.update(sampler="pk", images_per_identity=k, batch=p * k if p else batch)
    return data


def _losses(s: _Settings) -> list[dict[str, Any]]:
    parts = _parts(s)
    classify, metric = s.number("tri_loss_lambda_cls", default=1), s.number("tri_loss_lambda_tri", default=0)
    soft = s.get("tri_loss_margin", default="soft") in ("soft_margin", "soft")
    margin = 0.0 if soft else s.number("tri_loss_margin", default=0)
    losses: list[dict[str, Any]] = []
    if classify:
        # The older trainers add the parts' losses up; the mean times their number is the same.
        by_part = {"kind": "pcb", "parts": parts, "weight": classify * parts}
        losses.append(by_part if parts else {"kind": "softmax", "weight": classify, "smoothing": 0.0})
    if metric:
        mining = "weighted" if s.flag("tri_loss_use_adaptive_weight") else "hard"
        triplet = {"kind": "triplet", "weight": metric, "mining": mining, "normalise": False}
        losses.append({**triplet, "margin": margin or "soft"})
    return losses


def _schedule(s: _Settings, epochs: int) -> dict[str, Any]:
    steps, gamma = s.numbers("decay_step"), s.number("decay_gamma", default=0.1)
    if not any(steps):
        return {"kind": "constant"}
    if min(steps) <= 0:
        s.refuse("decay_step", "epochs above 0")
    if not isinstance(s.get("decay_step"), list):
        steps = [number * steps[0] for number in range(1, math.ceil(epochs / steps[0]))]
    return {"kind": "multistep", "milestones": steps, "gamma": gamma}
