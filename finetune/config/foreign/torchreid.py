"""torchreid (deep-person-reid): the arguments of `scripts/main.py`, as a command or as the YAML that it merges.

Options of its earlier `argparse` trainer (`--arch`, `--stepsize`) are read as the keys they became. A configuration
file that a command names is read below the command's own settings.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ....errors import ConfigError
from .fates import Converted, ForeignSettings
from .nested import flat_settings, literal, read_mapping
from .normalisation import IMAGENET_MEAN, IMAGENET_STD, preprocessing_of

__all__ = ["convert_torchreid"]

_OPTIONS = {
    "-s": "data.sources",
    "--sources": "data.sources",
    "--source-names": "data.sources",
    "-t": "data.targets",
    "--targets": "data.targets",
    "--target-names": "data.targets",
    "--transforms": "data.transforms",
    "--root": "data.root",
    "--height": "data.height",
    "--width": "data.width",
    "-j": "data.workers",
    "--workers": "data.workers",
    "--save-dir": "data.save_dir",
    "-a": "model.name",
    "--arch": "model.name",
    "--load-weights": "model.load_weights",
    "--resume": "model.resume",
    "--optim": "train.optim",
    "--lr": "train.lr",
    "--weight-decay": "train.weight_decay",
    "--max-epoch": "train.max_epoch",
    "--start-epoch": "train.start_epoch",
    "--train-batch-size": "train.batch_size",
    "--batch-size": "train.batch_size",
    "--fixbase-epoch": "train.fixbase_epoch",
    "--open-layers": "train.open_layers",
    "--lr-scheduler": "train.lr_scheduler",
    "--stepsize": "train.stepsize",
    "--gamma": "train.gamma",
    "--print-freq": "train.print_freq",
    "--seed": "train.seed",
    "--train-sampler": "sampler.train_sampler",
    "--num-instances": "sampler.num_instances",
    "--momentum": "sgd.momentum",
    "--loss": "loss.name",
    "--label-smooth": "loss.softmax.label_smooth",
    "--margin": "loss.triplet.margin",
    "--weight-t": "loss.triplet.weight_t",
    "--weight-x": "loss.triplet.weight_x",
    "--test-batch-size": "test.batch_size",
    "--eval-freq": "test.eval_freq",
    "--evaluate": "test.evaluate",
    "--dist-metric": "test.dist_metric",
    "--rerank": "test.rerank",
}
_FLAGS = ("loss.softmax.label_smooth", "test.evaluate", "test.rerank")
_LISTS = ("data.sources", "data.targets", "data.transforms", "train.stepsize", "train.open_layers")
_FOLDERS = {
    "market1501": "market1501/Market-1501-v15.09.15",
    "dukemtmcreid": "dukemtmc-reid/DukeMTMC-reID",
    "msmt17": "msmt17/MSMT17_V1",
    "cuhk03": "cuhk03",
}
_NETWORKS = {"osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25", "resnet50"}
_OPTIMIZERS = ("sgd", "adam", "amsgrad", "rmsprop")
_NO_COUNTERPART = {
    "model.pretrained": "rtool fetches no weights: set model.weights=FILE and model.weights_may_lack",
    "model.resume": "rtool finetune --resume auto continues a run of rtool, not one of torchreid",
    "data.split_id": "a data set has the split that its files have",
    "data.combineall": "queries and gallery are never trained on",
    "data.k_tfm": "an image is changed once per epoch",
    "data.load_train_targets": "targets are measured, not trained on",
    "market1501.use_500k_distractors": "the gallery is the files of bounding_box_test; put the distractors there",
    "cuhk03.labeled_images": "name the folder of the labelled or the detected images in data.train and data.evaluate",
    "cuhk03.classic_split": "the split is that of the files",
    "cuhk03.use_metric_cuhk03": "retrieval is measured by one rule for all sets",
    "sampler.train_sampler_t": "targets are not trained on",
    "sampler.num_cams": "there is no sampler over domains",
    "sampler.num_datasets": "there is no sampler over data sets",
    "video.seq_len": "tracklets are not read; each image counts by itself",
    "video.sample_method": "tracklets are not read",
    "video.pooling_method": "tracklets are not read",
    "train.start_epoch": "a resumed run knows its epoch",
    "sgd.dampening": "the momentum has no dampening",
    "rmsprop.alpha": "rmsprop smooths with 0.99",
    "adam.beta1": "Adam averages with 0.9",
    "adam.beta2": "Adam averages squares with 0.999",
    "test.ranks": "ranks 1, 5, 10 and 20 are measured",
    "test.start_eval": "evaluations begin with the run; set evaluation.every",
    "test.visrank": "rtool evaluate RUN DATA -o DIR draws rankings into its report",
    "test.visrank_topk": "rtool evaluate RUN DATA -o DIR draws rankings into its report",
    "test.evaluate": "rtool evaluate measures a model without training",
}
_AS_HERE = {"rmsprop.alpha": 0.99, "adam.beta1": 0.9, "adam.beta2": 0.999, "data.k_tfm": 1}
"""Values that are what rtool does."""


def convert_torchreid(path: Path) -> Converted:
    """The configuration that a command or a YAML file of torchreid describes, and the fate of each of its settings.

    Raises:
        InputError: the file, or the one that the command names, is missing.
        ConfigError: it is neither, or its values make no valid configuration.
    """
    if path.suffix in (".yaml", ".yml"):
        values = flat_settings(read_mapping(path))
    else:
        values = _command(path, path.read_text(encoding="utf-8-sig"))
    s = ForeignSettings(path, values)
    return s.converted(_convert(s))


def _command(path: Path, text: str) -> dict[str, Any]:
    """The settings of a command line: its options, and `KEY VALUE` pairs after them."""
    try:
        words = shlex.split(text.replace("\\\r\n", " ").replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise ConfigError(f"{path}: not a command that can be read: {error}") from error
    if not words:
        raise ConfigError(f"{path}: holds no command; expected python scripts/main.py and its arguments")
    base: dict[str, Any] = {}
    values: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        name, joined, inline = word.partition("=")
        if joined and word.startswith("--"):
            words.insert(0, inline)
            word = name
        if word == "--config-file" and words:
            base = flat_settings(read_mapping(path.parent / words.pop(0)))
        elif word in ("--gpu-devices", "--gpu_devices") and words:
            values[word] = words.pop(0)
        elif word in _OPTIONS:
            values[_OPTIONS[word]] = _argument(path, word, _OPTIONS[word], words)
        elif word.startswith("-"):
            values[word] = literal(words.pop(0)) if words and not words[0].startswith("-") else True
        elif "." in word and "/" not in word and not word.endswith(".py") and words:
            values[word] = literal(words.pop(0))
        elif not (
            word.endswith((".py", "python", "python3")) or word.startswith("python") or word == "\\" or "=" in word
        ):
            raise ConfigError(f"{path}: '{word}' is not an option of torchreid's main.py, and no KEY VALUE pair")
    return base | values


def _argument(path: Path, word: str, key: str, words: list[str]) -> Any:
    if key in _FLAGS and (not words or words[0].startswith("-") or "." in words[0]):
        return True
    found: list[Any] = []
    while words and not _is_option(words[0]) and (key in _LISTS or not found):
        if key in _LISTS and found and "." in words[0] and not words[0].replace(".", "").isdigit():
            break  # the first KEY of KEY VALUE pairs
        found.append(literal(words.pop(0)))
    if not found:
        raise ConfigError(f"{path}: {word} has no value")
    return found if key in _LISTS else found[0]


def _is_option(word: str) -> bool:
    return word.startswith("-") and not word.lstrip("-").replace(".", "").replace("e-", "").isdigit()


def _convert(s: ForeignSettings) -> dict[str, Any]:
    kind = s.text("data.type", into="images", default="image")
    if kind != "image":
        s.refuse("data.type", "image; tracklets of videos are not read")
    data: dict[str, Any] = {
        "seed": s.count("train.seed", into="seed", default=1),
        "epochs": s.count("train.max_epoch", into="epochs", default=60),
        "log_every": s.count("train.print_freq", into="log_every", default=20) or 20,
        "output": s.text("data.save_dir", into="output", default="log"),
        "model": _model(s),
        "data": _data(s),
        "augment": _augment(s),
        "losses": _losses(s),
        "optimizer": _optimizer(s),
        "schedule": _schedule(s),
        "evaluation": _evaluation(s),
    }
    if s.given("use_gpu"):
        on = s.flag("use_gpu", into="device")
        data["device"] = "cuda" if on else "cpu"
    for name in ("--gpu-devices", "--gpu_devices"):
        s.leave_out(name, "set CUDA_VISIBLE_DEVICES, and --nproc for several")
    for name, value in _AS_HERE.items():
        if s.given(name) and s.number(name, into="what rtool does", default=value) == value:
            continue
        s.leave_out_all({name: _NO_COUNTERPART[name]})
    s.leave_out_all({name: why for name, why in _NO_COUNTERPART.items() if name not in _AS_HERE})
    return data


def _model(s: ForeignSettings) -> dict[str, Any]:
    name = s.text("model.name", into="model.reference", default="resnet50")
    model: dict[str, Any] = {"reference": name if name in _NETWORKS else "path/to/model.onnx"}
    if name not in _NETWORKS:
        s.leave_out("model.name", f"{name} is not in rtool's zoo: give its ONNX file, model.reference=FILE.onnx")
    weights = s.text("model.load_weights", into="model.weights", default="")
    if weights:
        model |= {"weights": weights}
    height = s.count("data.height", into="model.size", default=256)
    model["size"] = [height, s.count("data.width", into="model.size", default=128)]
    mean = s.numbers("data.norm_mean", into="model.preprocessing") or IMAGENET_MEAN
    std = s.numbers("data.norm_std", into="model.preprocessing") or IMAGENET_STD
    found = preprocessing_of(mean, std, unit=1)
    if found is None:
        wrong = "data.norm_mean" if s.given("data.norm_mean") else "data.norm_std"
        s.refuse(wrong, "one number or three, beside deviations above 0")
    model["preprocessing"] = found
    fixed = s.number("train.fixbase_epoch", into="model.freeze", default=0)
    layers = s.texts("train.open_layers", into="model.freeze")
    if fixed and name in _NETWORKS:
        stem = ("conv?",) if name.startswith("osnet") else ("conv1", "bn1", "layer?")
        model["freeze"] = dict.fromkeys(stem, fixed)
        s.approximate("train.open_layers", f"model.freeze of {', '.join(stem)}; heads and the layers above train")
    elif fixed or layers:
        s.leave_out_all(
            dict.fromkeys(("train.fixbase_epoch", "train.open_layers"), "set model.freeze, {PATTERN: EPOCH}")
        )
    return model


def _places(s: ForeignSettings, key: str, field: str) -> dict[str, str]:
    root = s.text("data.root", into="data.train, data.evaluate", default="reid-data")
    names = list(dict.fromkeys(s.texts(key, into=field) or ["market1501"]))
    places = {name.replace(".", "_"): f"{root}/{_FOLDERS.get(name, name)}" for name in names}
    s.approximate(key, f"{field}: {', '.join(places.values())}; check the folders")
    return places


def _data(s: ForeignSettings) -> dict[str, Any]:
    train, targets = _places(s, "data.sources", "data.train"), _places(s, "data.targets", "data.evaluate")
    data: dict[str, Any] = {
        "train": train if len(train) > 1 else next(iter(train.values())),
        "evaluate": targets if len(targets) > 1 else next(iter(targets.values())),
        "batch": s.count("train.batch_size", into="data.batch", default=32),
        "workers": s.count("data.workers", into="data.workers", default=4),
    }
    sampler = s.text("sampler.train_sampler", into="data.sampler", default="RandomSampler")
    each = s.count("sampler.num_instances", into="data.images_per_identity", default=4)
    if sampler == "RandomIdentitySampler":
        return data | {"sampler": "pk", "images_per_identity": each}
    s.leave_out_all({"sampler.num_instances": "the sampler is random"})
    if sampler not in ("RandomSampler", "SequentialSampler"):
        s.leave_out("sampler.train_sampler", f"{sampler} has no counterpart; the sampler is random")
    return data


def _augment(s: ForeignSettings) -> dict[str, Any]:
    names = s.texts("data.transforms", into="augment") or ["random_flip"]
    shares: dict[str, dict[str, Any]] = {
        "random_flip": {"flip": 0.5},
        "random_crop": {"pad_crop": 8},
        "random_patch": {"random_patch": 0.5},
        "color_jitter": {"photometric": 1.0, "brightness": 0.2, "contrast": 0.15, "saturation": 0.0, "hue": 0.0},
        "random_erase": {"erasing": 0.5},
    }
    unknown = [name for name in names if name not in shares]
    inexact = [name for name in names if name in ("random_crop", "color_jitter", "random_erase")]
    if unknown:
        s.approximate("data.transforms", f"augment, without {', '.join(unknown)}, which has no counterpart")
    elif inexact:
        s.approximate("data.transforms", f"augment; {', '.join(inexact)} draw from somewhat other ranges")
    augment: dict[str, Any] = {"flip": 0.0}
    for name in names:
        augment |= shares.get(name, {})
    return augment


def _losses(s: ForeignSettings) -> list[dict[str, Any]]:
    name = s.text("loss.name", into="losses", default="softmax")
    smooth = s.flag("loss.softmax.label_smooth", into="losses.softmax.smoothing 0.1", default=True)
    softmax: dict[str, Any] = {"kind": "softmax", "smoothing": 0.1 if smooth else 0.0}
    margin = s.number("loss.triplet.margin", into="losses.triplet.margin", default=0.3)
    metric = s.number("loss.triplet.weight_t", into="losses.triplet.weight", default=1)
    classify = s.number("loss.triplet.weight_x", into="losses.softmax.weight", default=0)
    if name == "softmax":
        keys = [f"loss.triplet.{key}" for key in ("margin", "weight_t", "weight_x")]
        s.leave_out_all(dict.fromkeys(keys, "the loss is softmax"))
        return [softmax]
    if name != "triplet":
        s.refuse("loss.name", "softmax or triplet")
    losses = [{"kind": "triplet", "weight": metric, "margin": margin, "normalise": False}] if metric > 0 else []
    return losses + ([softmax | {"weight": classify}] if classify > 0 else [])


def _optimizer(s: ForeignSettings) -> dict[str, Any]:
    kind = s.text("train.optim", into="optimizer.kind", default="adam")
    if kind not in _OPTIMIZERS:
        s.refuse("train.optim", f"one of {', '.join(_OPTIMIZERS)}; radam has no counterpart")
    lr = s.number("train.lr", into="optimizer.lr", default=3e-4)
    optimizer: dict[str, Any] = {
        "kind": kind,
        "lr": lr,
        "weight_decay": s.number("train.weight_decay", into="optimizer.weight_decay, norms as well", default=5e-4),
        "decay_norms": True,
    }
    momentum = s.number("sgd.momentum", into="optimizer.momentum", default=0.9)
    nesterov = s.flag("sgd.nesterov", into="optimizer.nesterov")
    optimizer |= {"momentum": momentum} if kind in ("sgd", "rmsprop") else {}
    optimizer |= {"nesterov": nesterov} if kind == "sgd" else {}
    if kind not in ("sgd", "rmsprop"):
        s.leave_out_all({"sgd.momentum": f"{kind} has none"})
    if kind != "sgd":
        s.leave_out_all({"sgd.nesterov": f"{kind} has none"})
    factor = s.number("train.base_lr_mult", into="optimizer.lr", default=0.1)
    new = s.texts("train.new_layers", into="optimizer.head_lr")
    if s.flag("train.staged_lr", into="optimizer.head_lr"):
        optimizer |= {"lr": lr * factor, "head_lr": lr}
        fresh = {f"{name}*": 1 / factor for name in new if name != "classifier"} if factor > 0 else {}
        optimizer |= {"lr_multipliers": fresh} if fresh else {}
    else:
        why = "staged_lr is false, so all layers have one rate"
        s.leave_out_all(dict.fromkeys(("train.base_lr_mult", "train.new_layers"), why))
    return optimizer


def _schedule(s: ForeignSettings) -> dict[str, Any]:
    kind = s.text("train.lr_scheduler", into="schedule.kind", default="single_step")
    steps = s.numbers("train.stepsize", into="schedule.milestones") or [20]
    gamma = s.number("train.gamma", into="schedule.gamma", default=0.1)
    epochs = s.count("train.max_epoch", into="epochs", default=60)
    if kind == "cosine":
        s.leave_out_all(dict.fromkeys(("train.stepsize", "train.gamma"), "the rate falls as a cosine"))
        return {"kind": "cosine", "moves": "epoch"}
    if kind not in ("single_step", "multi_step"):
        s.refuse("train.lr_scheduler", "single_step, multi_step or cosine")
    if min(steps) <= 0:
        s.refuse("train.stepsize", "epochs above 0")
    if kind == "single_step":  # every so many epochs; of a list its last number counts there
        count = int(steps[-1])
        steps = [float(epoch) for epoch in range(count, epochs, count)] if count else []
    return {"kind": "multistep" if steps else "constant", "milestones": steps, "gamma": gamma}


def _evaluation(s: ForeignSettings) -> dict[str, Any]:
    every = s.number("test.eval_freq", into="evaluation.every", default=-1)
    epochs = s.count("train.max_epoch", into="epochs", default=60)
    if every <= 0 and s.given("test.eval_freq"):
        s.approximate("test.eval_freq", f"evaluation.every {epochs}: at the end alone")
    unit = s.flag("test.normalize_feature", into="evaluation.distance cosine")
    metric = s.text("test.dist_metric", into="evaluation.distance", default="euclidean")
    return {
        "protocol": "retrieval",
        "every": every if every > 0 else epochs,
        "batch": s.count("test.batch_size", into="evaluation.batch", default=100),
        "distance": "cosine" if unit else metric,
        "rerank": s.flag("test.rerank", into="evaluation.rerank"),
        "flip": False,
    }
