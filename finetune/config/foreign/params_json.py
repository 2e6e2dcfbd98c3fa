"""`params.json` of older re-identification trainers (pytorch-reid-lite and its relatives).

Their keys lie flat or in sections (`lr.base_lr` or `base_lr`, `tri_loss_params.margin` or `tri_loss_margin`); both are
read. A triplet margin alone means the triplet loss, and `tri_loss_lambda_cls` joins the classification to it. Two
faults of theirs are not copied: `fine_tune` froze weights but left BatchNorm in training mode, and average precision
was a trapezoid.

Their networks are a pretrained stem and fresh layers above it (embedding, classifiers): `fine_tune` freezes the stem
alone, and `fc_lr` is the rate of all that is fresh. They apply weight decay to every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....converters.records.json_text import parse_json
from ....converters.zoo.facts import FACTS
from ....errors import InputError
from .fates import Converted, ForeignSettings

__all__ = ["convert_params"]

_SECTIONS = {
    "lr": "",
    "batch_sampling_params": "batch_sampling_",
    "tri_loss_params": "tri_loss_",
    "evaluation_params": "evaluation_",
    "model_params": "model_",
    "data_augmentation": "augmentation_",
    "asoftmax_params": "asoftmax_",
    "gan_params": "gan_",
}
_ARCHITECTURES = {"resnet_50": "resnet50", "osnet": "osnet_x1_0"}
_RESNET_STEM = ("conv1", "bn1", "layer?")
_LAYERS: Mapping[str, tuple[tuple[str, ...], str | None]] = {
    "resnet50": (_RESNET_STEM, "fc"),
    "pcb": (_RESNET_STEM, "conv5"),
    "osnet_x1_0": (("conv?",), "fc"),
}
"""Architecture -> patterns of the stem, and the fresh layer above it. Any other network is a stem as a whole."""
_OPTIMIZERS = {kind: kind for kind in ("sgd", "adam", "amsgrad", "rmsprop", "adamw")} | {"nesterov": "sgd"}
_NO_COUNTERPART = {
    "model_random_drop_branchs": "dropping branches at random has no counterpart",
    "model_spectral_trans": "the spectral transform has no counterpart",
    "model_feature_mask": "masks of features have no counterpart",
    "focal_loss": "there is no focal loss",
    "imagenet_pretrain": "rtool fetches no weights: set model.weights=FILE and model.weights_may_lack",
    "asoftmax_step": "the margin does not grow over the first steps",
    "asoftmax_unlabel_fold": "unlabelled images are not trained on",
    "asoftmax_unlabel_update": "unlabelled images are not trained on",
    "batch_sampling_softmax_only": "batches are the same for all losses",
}
_PLACEHOLDER = "path/to/model.onnx"
_STRIDE, _LENGTH = ("model_last_conv_stride", "last_conv_stride"), ("model_feature_dim", "feature_dim")
_GLOBAL_LENGTH = ("model_feature_gobal_dim", "feature_gobal_dim", "model_feature_global_dim", "feature_global_dim")
"""Names in their section, and flat."""
_SMALLEST_RATE = 1e-8
"""Share of the peak rate below which further decays are left out."""


def convert_params(path: Path) -> Converted:
    """The configuration that a `params.json` describes, and the fate of each of its keys.

    Raises:
        InputError: the file is missing or not a JSON object.
        ConfigError: its values make no valid configuration.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    settings = ForeignSettings(path, _flat(content))
    return settings.converted(_convert(settings))


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and key in _SECTIONS:
            prefix = _SECTIONS[key]
            values.update({f"{prefix}{name}".removeprefix("model_model_"): inner for name, inner in value.items()})
        else:
            values[key] = value
    return values


def _convert(s: ForeignSettings) -> dict[str, Any]:
    lr = s.number("base_lr", into="optimizer.lr", default=0.01)
    fresh_lr = s.number("fc_lr", into="optimizer.head_lr, and optimizer.lr_multipliers of the fresh layer", default=lr)
    epochs = s.count("epochs", "epoch", "max_epoch", into="epochs", default=60)
    model, fresh = _model(s)
    kind = s.text("optimizer", into="optimizer.kind", default="sgd").lower()
    if kind not in _OPTIMIZERS:
        s.refuse("optimizer", f"one of {', '.join(_OPTIMIZERS)}")
    optimizer: dict[str, Any] = {
        "kind": _OPTIMIZERS[kind],
        "lr": lr,
        "head_lr": fresh_lr,
        "weight_decay": s.number("weight_decay", into="optimizer.weight_decay, norms as well", default=5e-4),
        "decay_norms": True,
    }
    if kind in ("sgd", "nesterov", "rmsprop"):
        optimizer["momentum"] = s.number("momentum", into="optimizer.momentum", default=0.9)
        nesterov = s.flag("nesterov", into="optimizer.nesterov")
        optimizer["nesterov"] = kind != "rmsprop" and (nesterov or kind == "nesterov")
    s.leave_out_all(dict.fromkeys(("momentum", "nesterov"), f"{kind} has none") if "momentum" not in optimizer else {})
    if fresh is not None and lr > 0 and fresh_lr != lr:
        layers = (fresh, "whole") if "global_dim" in model.get("options", {}) else (fresh,)
        optimizer["lr_multipliers"] = dict.fromkeys(layers, fresh_lr / lr)
    data: dict[str, Any] = {
        "epochs": epochs,
        "model": model,
        "data": _data(s),
        "augment": _augment(s, model),
        "losses": _losses(s),
        "optimizer": optimizer,
        "schedule": _schedule(s, epochs),
        "evaluation": _evaluation(s),
    }
    output = s.text("working_dir", "output_dir", into="output", default="")
    name = s.text("sub_working_dir", into="name", default="")
    data |= ({"output": output} if output else {}) | ({"name": name} if name else {})
    _processes(s)
    gan = {name: "networks that draw images are not trained" for name in s.names() if name.startswith("gan_")}
    s.leave_out_all(_NO_COUNTERPART | gan)
    return data


def _model(s: ForeignSettings) -> tuple[dict[str, Any], str | None]:
    """The model section, and the fresh layer of the network."""
    parts = _parts(s)
    name = s.text("model_model", "model", into="model.reference", default="resnet_50")
    snapshot = s.text("pretrain_snapshot", into="model.weights", default="")
    model: dict[str, Any] = {"reference": "pcb" if parts else _ARCHITECTURES.get(name, name)}
    stride = s.count(*_STRIDE, into="model.options.last_stride of pcb", default=1)
    if parts:
        model["options"] = {"parts": parts, "last_stride": stride} | _lengths(s, parts)
    else:
        why = "only pcb has it to choose; give another network as model.reference=FILE.onnx"
        s.leave_out_all(
            dict.fromkeys(
                (*_STRIDE, *_LENGTH, *_GLOBAL_LENGTH),
                why,
            )
        )
    if snapshot.endswith(".onnx"):
        model["reference"] = snapshot
        model.pop("options", None)
        s.get("pretrain_snapshot", into="model.reference, an ONNX file with its own architecture")
    elif snapshot:
        model["weights"] = snapshot
    if model["reference"] not in FACTS and not model["reference"].endswith(".onnx"):
        why = f"{name} is not in rtool's zoo: give its ONNX file, model.reference=FILE.onnx"
        s.leave_out_all(dict.fromkeys(("model_model", "model"), why))
        model["reference"] = _PLACEHOLDER
    height = s.count("img_h", into="model.size", default=0)
    width = s.count("img_w", into="model.size", default=0)
    if height and width:
        model["size"] = [height, width]
    else:
        why = "a size needs img_h and img_w; the model's own is used"
        s.leave_out_all({"img_h": why, "img_w": why})
    stem, fresh = _LAYERS.get(model["reference"], (("*",), None))
    if s.flag("fine_tune", into="model.freeze of the stem"):
        model["freeze"] = dict.fromkeys(stem)
    return model, fresh


def _parts(s: ForeignSettings) -> int:
    return s.count("model_pcb_n_parts", "pcb_n_parts", into="model.reference pcb, losses of kind pcb", default=0)


def _lengths(s: ForeignSettings, parts: int) -> dict[str, int]:
    """Options of pcb: `feature_dim` is the length of all parts together, the global branch comes on top."""
    length, whole = s.count(*_LENGTH, into="model.options.reduced of pcb", default=0), _global_dim(s)
    if length % parts:
        s.refuse(next(name for name in _LENGTH if s.given(name)), f"a multiple of pcb_n_parts, {parts}")
    return ({"reduced": length // parts} if length else {}) | ({"global_dim": whole} if whole else {})


def _global_dim(s: ForeignSettings) -> int:
    into = "model.options.global_dim and losses.pcb.global_dim"
    return s.count(*_GLOBAL_LENGTH, into=into, default=0)


def _data(s: ForeignSettings) -> dict[str, Any]:
    batch = s.count("batch_size", "batch_sampling_batch_size", into="data.batch, of each process", default=64)
    p = s.count("batch_sampling_P", "P", into="data.batch = P K", default=0)
    k = s.count("batch_sampling_K", "K", into="data.images_per_identity", default=4)
    data: dict[str, Any] = {
        "train": s.get("batches_dir", "train_dir", "data_dir", into="data.train", default="path/to/images"),
        "batch": batch,
        "workers": s.count("num_preprocess_workers", into="data.workers", default=0),
    }
    if not _is_balanced(s):
        s.leave_out_all(dict.fromkeys(("batch_sampling_P", "P", "batch_sampling_K", "K"), "class_balanced is false"))
        return data
    data.update(sampler="pk", images_per_identity=k, batch=p * k if p else batch)
    if p:
        s.leave_out_all(
            dict.fromkeys(("batch_size", "batch_sampling_batch_size"), "class_balanced batches have P K images")
        )
    return data


def _is_balanced(s: ForeignSettings) -> bool:
    return s.flag("batch_sampling_class_balanced", "class_balanced", into="data.sampler pk")


def _augment(s: ForeignSettings, model: dict[str, Any]) -> dict[str, Any]:
    def chance(name: str, field: str) -> float:
        return 0.5 if s.flag(f"augmentation_{name}", name, into=f"augment.{field} 0.5") else 0.0

    augment: dict[str, Any] = {
        "flip": chance("mirror", "flip"),
        "erasing": chance("random_erasing", "erasing"),
        "colour": chance("colour_jitering", "colour"),
        "noise": chance("gaussian_noise", "noise"),
        "rotation": s.number("augmentation_rotation", "rotation", into="augment.rotation", default=0),
    }
    for name in ("augmentation_colour_jitering", "colour_jitering"):
        if augment["colour"]:
            s.approximate(name, "augment.colour 0.5: factors of each channel, of other strengths")
    for name in ("augmentation_gaussian_noise", "gaussian_noise"):
        if augment["noise"]:
            s.approximate(name, "augment.noise 0.5: deviations up to 20 of 255")
    names = ("augmentation_padding_h", "augmentation_padding_w")
    high, wide = (
        s.count(name, name.removeprefix("augmentation_"), into="augment.pad_crop", default=0) for name in names
    )
    augment["pad_crop"] = min(high, wide) if high and wide else 0
    if high != wide:
        for name in names:
            s.approximate(name, f"augment.pad_crop {augment['pad_crop']}: one number for both directions")
    size = model.get("size", [0, 0])
    for name, own in zip(("augmentation_crop_h", "augmentation_crop_w"), size, strict=True):
        asked = s.count(
            name, name.removeprefix("augmentation_"), into="model.size, to which augment.pad_crop crops", default=0
        )
        if asked and asked != own:
            s.approximate(name, "images are cropped to model.size")
    if s.flag("augmentation_imagenet_static", "imagenet_static", into="model.preprocessing imagenet"):
        model["preprocessing"] = "imagenet"
    else:
        s.leave_out_all({"augmentation_imagenet_static": ""})
    return augment


def _losses(s: ForeignSettings) -> list[dict[str, Any]]:
    parts = _parts(s)
    margin = s.get("tri_loss_margin", into="losses.triplet.margin", default=0)
    soft = margin in ("soft_margin", "soft")
    width = 0.0 if soft else s.number("tri_loss_margin", into="losses.triplet.margin", default=0)
    triplet = soft or width > 0
    weight = s.number("tri_loss_lambda_tri", into="losses.triplet.weight", default=1)
    classify = s.number("tri_loss_lambda_cls", into="weight of the classification", default=0)
    weighted = s.flag("tri_loss_use_adaptive_weight", into="losses.triplet.mining weighted")
    if not triplet:
        why = "tri_loss_margin is 0 or missing, which turns the triplet off"
        names = ("tri_loss_margin", "tri_loss_lambda_tri", "tri_loss_lambda_cls", "tri_loss_use_adaptive_weight")
        s.leave_out_all(dict.fromkeys(names, why))
        classify, weight = 1.0, 0.0
    losses: list[dict[str, Any]] = []
    if classify:
        losses.append(_classification(s, parts, classify))
    if weight:
        mining = "weighted" if weighted else "hard"
        kind = {"kind": "triplet", "weight": weight, "mining": mining, "normalise": False}
        losses.append({**kind, "margin": "soft" if soft else width})
    return losses


def _classification(s: ForeignSettings, parts: int, weight: float) -> dict[str, Any]:
    """The loss over classes: AM-softmax where it has a margin, one classifier for each part of pcb, or softmax."""
    margin = s.number("asoftmax_margin", into="losses.cosface.margin", default=0)
    scale = s.number("asoftmax_scale", into="losses.cosface.scale", default=0)
    if margin > 0 and not parts:
        return {"kind": "cosface", "weight": weight, "margin": margin, "scale": scale or 30.0}
    why = "parts have plain classifiers" if parts else "asoftmax margin is 0, which turns it off"
    s.leave_out_all(dict.fromkeys(("asoftmax_margin", "asoftmax_scale"), why))
    # The older trainers add the parts' losses up; the mean times their number is the same.
    whole = _global_dim(s) if parts else 0
    slices = parts + (whole > 0)
    by_part = {"kind": "pcb", "parts": parts, "global_dim": whole, "weight": weight * slices}
    return by_part if parts else {"kind": "softmax", "weight": weight, "smoothing": 0.0}


def _schedule(s: ForeignSettings, epochs: int) -> dict[str, Any]:
    balanced = _is_balanced(s)
    field = "schedule.milestone_steps" if balanced else "schedule.milestones"
    steps, gamma = s.numbers("decay_step", into=field), s.number("decay_gamma", into="schedule.gamma", default=0.1)
    warmup = s.number("warmup_epoch", "warmup_epochs", into="schedule.warmup_epochs", default=0)
    if not any(steps):
        s.leave_out_all({"decay_step": "", "decay_gamma": "decay_step is 0 or missing, so the rate does not fall"})
        return {"kind": "constant", "warmup_epochs": warmup}
    if min(steps) <= 0:
        s.refuse("decay_step", "steps above 0")
    listed = isinstance(s.get("decay_step", into=field), list)
    if balanced and any(step != int(step) for step in steps):
        s.refuse("decay_step", "whole numbers: with class_balanced they are iterations")
    if not listed and balanced:
        steps = [number * steps[0] for number in range(1, _decays(s, gamma) + 1)]
        s.approximate(
            "decay_step", f"{field}: {len(steps)} multiples; the rate is then at most {_SMALLEST_RATE:g} of its peak"
        )
    elif not listed:
        steps = [number * steps[0] for number in range(1, math.ceil(epochs / steps[0]))]
    milestones = {"milestone_steps": [int(step) for step in steps]} if balanced else {"milestones": steps}
    return {"kind": "multistep", "gamma": gamma, "warmup_epochs": warmup, **milestones}


def _decays(s: ForeignSettings, gamma: float) -> int:
    """How often the rate falls by `gamma` until it is next to nothing."""
    if not 0 < gamma < 1:
        s.refuse("decay_gamma", "a factor between 0 and 1")
    return min(1000, math.ceil(math.log(_SMALLEST_RATE) / math.log(gamma) - 1e-9))


def _evaluation(s: ForeignSettings) -> dict[str, Any] | None:
    asked = s.get("evaluation_type", into="evaluation.protocol", default="none" if s.given("evaluation_type") else "")
    name = str(asked).lower()
    if name == "none":
        s.get("evaluation_type", into="evaluation null")
        s.approximate("evaluation_type", "evaluation: null, which measures nothing")
        s.leave_out_all(dict.fromkeys(("evaluation_epoch", "evaluation_step"), "evaluation_type is None"))
        return None
    evaluation: dict[str, Any] = {"every": s.number("evaluation_epoch", into="evaluation.every", default=1)}
    steps = s.count("evaluation_step", into="evaluation.every_steps", default=0)
    if steps:
        evaluation["every_steps"] = steps
    if name == "market_evaluate":
        evaluation["protocol"] = "retrieval"
        why = (
            "evaluation.protocol retrieval, of people held out of data.train: set data.evaluate to queries and gallery"
        )
        s.approximate("evaluation_type", why)
    elif name == "classification_evaluate":
        evaluation["protocol"] = "classification"
        s.approximate("evaluation_type", "evaluation.protocol classification: model.output must be the class scores")
    elif name:
        s.leave_out("evaluation_type", "name the function of your file as evaluation.function: MODULE:NAME")
    return evaluation


def _processes(s: ForeignSettings) -> None:
    """`parallels`: the numbers of the GPUs, or how many there are."""
    devices = s.get("parallels", into="--nproc", default=None)
    if devices is None:
        return
    if isinstance(devices, list) and devices:
        s.nproc = len(devices)
        numbers = ",".join(str(int(number)) for number in s.numbers("parallels", into="--nproc"))
        s.approximate("parallels", f"--nproc {s.nproc} of rtool finetune, with CUDA_VISIBLE_DEVICES={numbers}")
        return
    s.nproc = s.count("parallels", into="--nproc", default=1) or None
    s.approximate("parallels", f"--nproc {s.nproc or 1} of rtool finetune")
