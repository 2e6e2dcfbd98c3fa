"""Configurations of fast-reid: YAML over `_BASE_` files, with its defaults; augmentation in both of its namings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....errors import ConfigError
from .fastreid_keys import AVERAGED, COUNTED, NO_COUNTERPART
from .fates import Converted, ForeignSettings
from .nested import flat_settings, read_mapping
from .normalisation import IMAGENET_MEAN, IMAGENET_STD, preprocessing_of

__all__ = ["convert_fastreid"]

_DATASETS = {
    "Market1501": "Market-1501-v15.09.15",
    "DukeMTMC": "DukeMTMC-reID",
    "MSMT17": "MSMT17_V1",
    "CUHK03": "cuhk03",
    "VeRi": "veri",
}
_SOFTMAX = {
    "linear": "softmax",
    "arcface": "arcface",
    "arcsoftmax": "arcface",
    "circle": "circle",
    "circlesoftmax": "circle",
    "amsoftmax": "cosface",
    "cossoftmax": "cosface",
    "cosface": "cosface",
}
_OPTIMIZERS = {"adam": "adam", "sgd": "sgd", "adamw": "adamw", "rmsprop": "rmsprop"}
_MOST_BASES = 10
_MOST_EPOCHS = 1000
"""SOLVER.MAX_ITER up to here counts epochs, and so do STEPS and WARMUP_ITERS: versions between the first, which counts
iterations, and those with MAX_EPOCH multiply all three by the iterations of an epoch."""


def convert_fastreid(path: Path) -> Converted:
    """The configuration that a YAML file of fast-reid describes, and the fate of each key, those of `_BASE_` included.

    Raises:
        InputError: the file or its base is missing.
        ConfigError: it is no such file, or its values make no valid configuration.
    """
    s = ForeignSettings(path, _read(path, 0))
    return s.converted(_convert(s))


def _read(path: Path, depth: int) -> dict[str, Any]:
    if depth > _MOST_BASES:
        raise ConfigError(f"{path}: over {_MOST_BASES} _BASE_ files stand above it")
    content = read_mapping(path)
    base = content.pop("_BASE_", None)
    values = flat_settings(content)
    if base is None:
        return values
    above = Path(str(base)).expanduser()
    return _read(above if above.is_absolute() else path.parent / above, depth + 1) | values


def _convert(s: ForeignSettings) -> dict[str, Any]:
    epochs, most = _epochs(s)
    half = s.flag("SOLVER.AMP.ENABLED", into="precision half: fp16 on a GPU, bf16 on a CPU")
    data: dict[str, Any] = {
        "epochs": epochs,
        "precision": "half" if half else "fp32",
        "log_every": s.count("SOLVER.LOG_PERIOD", into="log_every", default=20) or 20,
        "output": s.text("OUTPUT_DIR", into="output", default="logs"),
        "model": _model(s),
        "data": _data(s),
        "augment": _augment(s),
        "losses": _losses(s),
        "optimizer": _optimizer(s),
        "schedule": _schedule(s, most),
        "evaluation": _evaluation(s, by_step=most > _MOST_EPOCHS),
    }
    seed = s.count("SEED", into="seed", default=0)
    device = s.text("MODEL.DEVICE", into="device", default="")
    data |= ({"seed": seed} if seed else {}) | ({"device": device} if device in ("cpu", "cuda") else {})
    distilled = [name for name in s.names() if name.startswith("KD.")]
    swa = [f"SOLVER.SWA.{name}" for name in AVERAGED]
    s.leave_out_all(dict.fromkeys(swa, "weights are averaged by optimizer.ema"))
    s.leave_out_all(dict.fromkeys(distilled, "a teacher is not part of this configuration"))
    s.leave_out_all(NO_COUNTERPART)
    for name, why in COUNTED.items():
        s.leave_out(name, why)
    return data


def _epochs(s: ForeignSettings) -> tuple[int, int]:
    """Epochs, and SOLVER.MAX_ITER, 0 where it does not count."""
    if s.given("SOLVER.MAX_EPOCH"):
        s.leave_out("SOLVER.MAX_ITER", "SOLVER.MAX_EPOCH is used instead")
        return s.count("SOLVER.MAX_EPOCH", into="epochs", default=120) or 120, 0
    most = s.count("SOLVER.MAX_ITER", into="epochs", default=0)
    if most > _MOST_EPOCHS:
        s.leave_out("SOLVER.MAX_ITER", "epochs are counted: set epochs to MAX_ITER x IMS_PER_BATCH / images")
        return 120, most
    s.approximate("SOLVER.MAX_ITER", f"epochs: up to {_MOST_EPOCHS} it counts them, with STEPS and WARMUP_ITERS")
    return most or 120, most


def _model(s: ForeignSettings) -> dict[str, Any]:
    builder = s.text("MODEL.BACKBONE.NAME", into="model.reference", default="build_resnet_backbone")
    depth = str(s.get("MODEL.BACKBONE.DEPTH", into="model.reference", default="50")).removesuffix("x")
    ibn = s.flag("MODEL.BACKBONE.WITH_IBN", into="model.reference resnet50_ibn_a")
    known = {"build_resnet_backbone 50": "resnet50_ibn_a" if ibn else "resnet50"}
    known |= {f"build_osnet_backbone {width}": f"osnet_{width}" for width in ("x0_25", "x0_5", "x0_75", "x1_0")}
    reference = known.get(f"{builder} {depth}")
    model: dict[str, Any] = {"reference": reference or "path/to/model.onnx"}
    if reference is None:
        for name in ("MODEL.BACKBONE.NAME", "MODEL.BACKBONE.DEPTH", "MODEL.BACKBONE.WITH_IBN"):
            s.leave_out(name, f"{builder} {depth} is not in rtool's zoo: give its ONNX file, model.reference=FILE.onnx")
    weights = s.text("MODEL.WEIGHTS", "MODEL.BACKBONE.PRETRAIN_PATH", into="model.weights", default="")
    if weights:
        model["weights"] = weights
    size = s.numbers("INPUT.SIZE_TRAIN", into="model.size") or [256, 128]
    model["size"] = [int(number) for number in (size if len(size) == 2 else size * 2)]
    tested = s.numbers("INPUT.SIZE_TEST", into="model.size")
    if tested and [int(number) for number in tested] != model["size"]:
        s.approximate("INPUT.SIZE_TEST", "model.size holds for training and evaluation")
    mean = s.numbers("MODEL.PIXEL_MEAN", into="model.preprocessing")
    std = s.numbers("MODEL.PIXEL_STD", into="model.preprocessing")
    if mean or std:
        given = mean or [255 * number for number in IMAGENET_MEAN], std or [255 * number for number in IMAGENET_STD]
        found = preprocessing_of(*given, unit=255)
        if found is None:
            wrong = "MODEL.PIXEL_MEAN" if mean else "MODEL.PIXEL_STD"
            s.refuse(wrong, "one number or three, beside deviations above 0")
        model["preprocessing"] = found
    return model


def _sources(s: ForeignSettings, name: str, field: str) -> list[str]:
    names = s.texts(name, into=field) or ["Market1501"]
    places = [f"datasets/{_DATASETS.get(each, each)}" for each in dict.fromkeys(names)]
    s.approximate(name, f"{field}: {', '.join(places)}, below FASTREID_DATASETS; check the folders")
    return places


def _data(s: ForeignSettings) -> dict[str, Any]:
    train, tests = _sources(s, "DATASETS.NAMES", "data.train"), _sources(s, "DATASETS.TESTS", "data.evaluate")
    sampler = s.text("DATALOADER.SAMPLER_TRAIN", into="data.sampler", default="")
    pk = s.flag("DATALOADER.PK_SAMPLER", into="data.sampler", default=True)
    by_identity = sampler != "TrainingSampler" if sampler else pk
    data: dict[str, Any] = {
        "train": train[0] if len(train) == 1 else train,
        "evaluate": tests[0] if len(tests) == 1 else {Path(place).name.replace(".", "_"): place for place in tests},
        "global_batch": s.count("SOLVER.IMS_PER_BATCH", into="data.global_batch", default=64) or 64,
        "workers": s.count("DATALOADER.NUM_WORKERS", into="data.workers", default=8),
    }
    each = s.count("DATALOADER.NUM_INSTANCE", into="data.images_per_identity", default=4)
    if not by_identity:
        s.leave_out_all({"DATALOADER.NUM_INSTANCE": "the sampler is random"})
        return data
    if sampler == "SetReWeightSampler":
        s.approximate("DATALOADER.SAMPLER_TRAIN", "data.sampler pk; sets are drawn from by their sizes")
    naive = s.flag("DATALOADER.NAIVE_WAY", into="data.sampler pk", default=sampler != "BalancedIdentitySampler")
    return data | {"sampler": "pk" if naive else "pk_cameras", "images_per_identity": each}


def _augment(s: ForeignSettings) -> dict[str, Any]:
    def chance(names: tuple[str, ...], share: str, field: str, *, on: bool, usual: float) -> float:
        asked = s.flag(*names, into=field, default=on)
        probability = s.number(share, into=field, default=usual)
        if not asked:
            s.leave_out_all({share: "off there, and so here"})
        return probability if asked else 0.0

    augment: dict[str, Any] = {
        "flip": chance(("INPUT.FLIP.ENABLED", "INPUT.DO_FLIP"), "INPUT.FLIP.PROB", "augment.flip", on=True, usual=0.5),
        "erasing": chance(("INPUT.REA.ENABLED",), "INPUT.REA.PROB", "augment.erasing", on=False, usual=0.5),
        "photometric": chance(
            ("INPUT.CJ.ENABLED", "INPUT.DO_CJ"), "INPUT.CJ.PROB", "augment.photometric", on=False, usual=0.5
        ),
        "aug_mix": chance(
            ("INPUT.AUGMIX.ENABLED", "INPUT.DO_AUGMIX"), "INPUT.AUGMIX.PROB", "augment.aug_mix", on=False, usual=1.0
        ),
        "rand_augment": chance(
            ("INPUT.AUTOAUG.ENABLED", "INPUT.DO_AUTOAUG"),
            "INPUT.AUTOAUG.PROB",
            "augment.rand_augment",
            on=False,
            usual=0.1,
        ),
        "random_patch": chance(("INPUT.RPT.ENABLED",), "INPUT.RPT.PROB", "augment.random_patch", on=False, usual=0.5),
    }
    if s.given("INPUT.FLIP_PROB") and augment["flip"]:
        augment["flip"] = s.number("INPUT.FLIP_PROB", into="augment.flip", default=0.5)
    else:
        s.leave_out_all({"INPUT.FLIP_PROB": "off there, and so here"})
    for name in ("INPUT.AUTOAUG.ENABLED", "INPUT.DO_AUTOAUG"):
        if augment["rand_augment"]:
            s.approximate(name, "augment.rand_augment: RandAugment in the place of AutoAugment")
    for name in ("INPUT.CJ.ENABLED", "INPUT.DO_CJ"):
        if augment["photometric"]:
            s.approximate(name, "augment.photometric, with the strengths augment.brightness and so on")
    pads = s.flag("INPUT.PADDING.ENABLED", "INPUT.DO_PAD", into="augment.pad_crop", default=True)
    pixels = s.count("INPUT.PADDING.SIZE", "INPUT.PADDING", into="augment.pad_crop", default=10)
    return augment | {"pad_crop": pixels if pads else 0}


def _losses(s: ForeignSettings) -> list[dict[str, Any]]:
    names = s.texts("MODEL.LOSSES.NAME", into="losses") or ["CrossEntropyLoss"]
    head = s.text("MODEL.HEADS.CLS_LAYER", into="kind of losses.0", default="linear")
    makers: Mapping[str, Any] = {
        "CrossEntropyLoss": _classification,
        "TripletLoss": _triplet,
        "CircleLoss": _circle,
        "ContrastiveLoss": lambda _: {"kind": "contrastive"},
    }
    known = [name for name in names if name in makers]
    missing = [name for name in names if name not in makers]
    if not known:
        s.refuse("MODEL.LOSSES.NAME", f"at least one of {', '.join(makers)}")
    if missing:
        s.approximate("MODEL.LOSSES.NAME", f"losses, without {', '.join(missing)}, which has no counterpart")
    losses = [makers[name](s) for name in known]
    unused = {
        "CrossEntropyLoss": ("MODEL.LOSSES.CE.EPSILON", "MODEL.LOSSES.CE.SCALE"),
        "TripletLoss": tuple(f"MODEL.LOSSES.TRI.{name}" for name in ("MARGIN", "NORM_FEAT", "HARD_MINING", "SCALE")),
        "CircleLoss": tuple(f"MODEL.LOSSES.CIRCLE.{name}" for name in ("MARGIN", "GAMMA", "SCALE")),
        "Cosface": tuple(f"MODEL.LOSSES.COSFACE.{name}" for name in ("MARGIN", "GAMMA", "SCALE")),
    }
    for loss, keys in unused.items():
        if loss not in known:
            s.leave_out_all(dict.fromkeys(keys, f"{loss} is not among the losses"))
    if head.lower() not in _SOFTMAX:
        s.leave_out("MODEL.HEADS.CLS_LAYER", f"{head} has no counterpart; the classification is a softmax")
    return losses


def _classification(s: ForeignSettings) -> dict[str, Any]:
    head = s.text("MODEL.HEADS.CLS_LAYER", into="kind of losses.0", default="linear").lower()
    kind = _SOFTMAX.get(head, "softmax")
    smoothing = s.number("MODEL.LOSSES.CE.EPSILON", into="losses.softmax.smoothing", default=0)
    loss: dict[str, Any] = {"kind": kind, "weight": s.number("MODEL.LOSSES.CE.SCALE", into="losses.weight", default=1)}
    margin = s.number("MODEL.HEADS.MARGIN", into=f"losses.{kind}.margin", default=0.15)
    scale = s.number("MODEL.HEADS.SCALE", into=f"losses.{kind}.scale", default=128)
    if kind == "softmax":
        s.leave_out_all(dict.fromkeys(("MODEL.HEADS.MARGIN", "MODEL.HEADS.SCALE"), "the classifier is linear"))
        if smoothing < 0:
            s.approximate("MODEL.LOSSES.CE.EPSILON", "losses.softmax.smoothing 0.1 in the place of adaptive smoothing")
        return loss | {"smoothing": smoothing if smoothing >= 0 else 0.1}
    if smoothing:
        s.leave_out("MODEL.LOSSES.CE.EPSILON", f"{kind} has no label smoothing")
    return loss | {"scale": scale} | ({"margins": [1.0, margin, 0.0]} if kind == "arcface" else {"margin": margin})


def _triplet(s: ForeignSettings) -> dict[str, Any]:
    margin = s.number("MODEL.LOSSES.TRI.MARGIN", into="losses.triplet.margin", default=0.3)
    hard = s.flag("MODEL.LOSSES.TRI.HARD_MINING", into="losses.triplet.mining", default=True)
    return {
        "kind": "triplet",
        "margin": margin if margin > 0 else "soft",
        "mining": "hard" if hard else "weighted",
        "normalise": s.flag("MODEL.LOSSES.TRI.NORM_FEAT", into="losses.triplet.normalise"),
        "weight": s.number("MODEL.LOSSES.TRI.SCALE", into="losses.triplet.weight", default=1),
    }


def _circle(s: ForeignSettings) -> dict[str, Any]:
    return {
        "kind": "circle_pair",
        "margin": s.number("MODEL.LOSSES.CIRCLE.MARGIN", into="losses.circle_pair.margin", default=0.25),
        "scale": s.number("MODEL.LOSSES.CIRCLE.GAMMA", into="losses.circle_pair.scale", default=128),
        "weight": s.number("MODEL.LOSSES.CIRCLE.SCALE", into="losses.circle_pair.weight", default=1),
    }


def _optimizer(s: ForeignSettings) -> dict[str, Any]:
    kind = s.text("SOLVER.OPT", into="optimizer.kind", default="Adam").lower()
    if kind not in _OPTIMIZERS:
        s.refuse("SOLVER.OPT", f"one of {', '.join(_OPTIMIZERS)}")
    lr = s.number("SOLVER.BASE_LR", into="optimizer.lr", default=3e-4)
    decay = s.number("SOLVER.WEIGHT_DECAY", into="optimizer.weight_decay", default=5e-4)
    optimizer: dict[str, Any] = {
        "kind": _OPTIMIZERS[kind],
        "lr": lr,
        "head_lr": lr * s.number("SOLVER.HEADS_LR_FACTOR", into="optimizer.head_lr", default=1),
        "weight_decay": decay,
    }
    bias = s.number("SOLVER.BIAS_LR_FACTOR", into="optimizer.lr_multipliers", default=1)
    if bias != 1:
        optimizer["lr_multipliers"] = {"*.bias": bias}
    norm = s.number("SOLVER.WEIGHT_DECAY_NORM", into="optimizer.decay_norms", default=decay)
    optimizer["decay_norms"] = norm > 0
    if norm not in (0, decay):
        s.approximate("SOLVER.WEIGHT_DECAY_NORM", "optimizer.decay_norms: norms decay as weights do")
    if s.number("SOLVER.WEIGHT_DECAY_BIAS", into="optimizer.decay_norms", default=norm) != norm:
        s.approximate("SOLVER.WEIGHT_DECAY_BIAS", "biases decay as norms do, by optimizer.decay_norms")
    momentum = s.number("SOLVER.MOMENTUM", into="optimizer.momentum", default=0.9)
    nesterov = s.flag("SOLVER.NESTEROV", into="optimizer.nesterov")
    if kind == "sgd":
        optimizer |= {"momentum": momentum, "nesterov": nesterov}
    else:
        s.leave_out_all(dict.fromkeys(("SOLVER.MOMENTUM", "SOLVER.NESTEROV"), f"{kind} has none"))
    clip = s.number("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", into="optimizer.clip", default=5)
    if s.flag("SOLVER.CLIP_GRADIENTS.ENABLED", into="optimizer.clip"):
        optimizer["clip"] = clip
    else:
        s.leave_out_all({"SOLVER.CLIP_GRADIENTS.CLIP_VALUE": "off there, and so here"})
    return optimizer


def _schedule(s: ForeignSettings, most: int) -> dict[str, Any]:
    name = s.text("SOLVER.SCHED", into="schedule.kind", default="MultiStepLR")
    by_step = most > _MOST_EPOCHS
    field = "schedule.milestone_steps" if by_step else "schedule.milestones"
    steps = s.numbers("SOLVER.STEPS", into=field) or [30, 55]
    gamma = s.number("SOLVER.GAMMA", into="schedule.gamma", default=0.1)
    lowest = s.number("SOLVER.ETA_MIN_LR", into="schedule.final", default=0)
    rate = s.number("SOLVER.BASE_LR", into="optimizer.lr", default=3e-4)
    schedule: dict[str, Any] = {}
    if "cosine" in name.lower():
        schedule = {"kind": "cosine", "final": min(1.0, lowest / rate) if rate > 0 else 0.0}
        s.leave_out_all(dict.fromkeys(("SOLVER.STEPS", "SOLVER.GAMMA"), "the rate falls as a cosine"))
    else:
        milestones = {"milestone_steps": [int(step) for step in steps]} if by_step else {"milestones": steps}
        schedule = {"kind": "multistep", "gamma": gamma, **milestones}
        s.leave_out_all({"SOLVER.ETA_MIN_LR": "the rate falls in steps"})
    unit = "warmup_epochs" if 0 < most <= _MOST_EPOCHS else "warmup_steps"
    warmup = s.count("SOLVER.WARMUP_ITERS", into=f"schedule.{unit}", default=0)
    epochs = s.number("SOLVER.WARMUP_EPOCHS", into="schedule.warmup_epochs", default=0)
    schedule |= ({unit: warmup} if warmup else {}) | ({"warmup_epochs": epochs} if epochs else {})
    s.number("SOLVER.WARMUP_FACTOR", into="schedule.warmup_steps", default=0.1)
    s.approximate("SOLVER.WARMUP_FACTOR", "the warm-up rises from 0 to the peak rate")
    return schedule


def _evaluation(s: ForeignSettings, *, by_step: bool) -> dict[str, Any]:
    field = "every_steps" if by_step else "every"
    period = s.number("TEST.EVAL_PERIOD", into=f"evaluation.{field}", default=5000 if by_step else 10) or 10
    return {
        "protocol": "retrieval",
        field: int(period) if by_step else period,
        "batch": s.count("TEST.IMS_PER_BATCH", into="evaluation.batch", default=128) or 128,
        "distance": s.text("TEST.METRIC", into="evaluation.distance", default="cosine"),
        "flip": s.flag("TEST.FLIP.ENABLED", "TEST.FLIP_ENABLED", into="evaluation.flip"),
        **_expansion(s),
        "rerank": s.flag("TEST.RERANK.ENABLED", into="evaluation.rerank"),
        "rerank_k1": s.count("TEST.RERANK.K1", into="evaluation.rerank_k1", default=20),
        "rerank_k2": s.count("TEST.RERANK.K2", into="evaluation.rerank_k2", default=6),
        "rerank_lambda": s.number("TEST.RERANK.LAMBDA", into="evaluation.rerank_lambda", default=0.3),
    }


def _expansion(s: ForeignSettings) -> dict[str, Any]:
    asked = s.flag("TEST.AQE.ENABLED", into="evaluation.expand")
    nearest = s.count("TEST.AQE.QE_K", into="evaluation.expand", default=5)
    alpha = s.number("TEST.AQE.ALPHA", into="evaluation.expand_alpha", default=3)
    if asked:
        return {"expand": nearest, "expand_alpha": alpha}
    s.leave_out_all(dict.fromkeys(("TEST.AQE.QE_K", "TEST.AQE.ALPHA"), "off there, and so here"))
    return {}
