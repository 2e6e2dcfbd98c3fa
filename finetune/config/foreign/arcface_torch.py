"""Configurations of arcface_torch (`configs/ms1mv3_r50.py`), with what its `train_v2.py` does without a key.

Its defaults are those of `configs/base.py`, which it merges below every configuration; a `base.py` beside the file is
read in their place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .fates import Converted, ForeignSettings
from .python_settings import Code, read_python_settings

__all__ = ["convert_arcface_torch"]

_NETWORKS = {
    "r18": "iresnet18",
    "r34": "iresnet34",
    "r50": "iresnet50",
    "r100": "iresnet100",
    "r200": "iresnet200",
    "mbf": "mobilefacenet",
}
_NO_COUNTERPART = {
    "dali": "rtool has its own loader; data.workers decode",
    "dali_aug": "the changes of DALI have no exact counterpart; augment.* has others",
    "wandb_key": "keys are not written into files: set the environment variable WANDB_API_KEY",
    "wandb_entity": "set the environment variable WANDB_ENTITY",
    "wandb_log_all": "one process writes the metrics of all",
    "wandb_resume": "a resumed run continues its files",
    "suffix_run_name": "the time distinguishes runs",
    "save_artifacts": "checkpoints stay in the run folder",
    "notes": "notes on the run are not kept",
}
_COUNTED = {
    "embedding_size": "the length of the embedding is read from the network",
    "num_classes": "identities are counted in the data",
    "num_image": "images are counted in the data",
}
_PLACEHOLDER = "path/to/model.onnx"
_RANDOM = "synthetic"
"""In the place of `rec`: pixels without images, to measure speed."""


def convert_arcface_torch(path: Path) -> Converted:
    """The configuration that a Python file of arcface_torch describes, and the fate of each of its keys.

    Raises:
        InputError: the file, or one it takes its settings from, is missing.
        ConfigError: it decides its settings by code, or its values make no valid configuration.
    """
    values = read_python_settings(path)
    base = path.with_name("base.py")
    if base.is_file() and base.resolve() != path.resolve():
        values = read_python_settings(base) | values
    code = {name: value for name, value in values.items() if isinstance(value, Code)}
    s = ForeignSettings(path, {name: None if name in code else value for name, value in values.items()})
    data = _convert(s, path)
    for name, value in code.items():
        s.leave_out(name, f"{value}, which is not run; set the field that it would have set")
    return s.converted(data)


def _convert(s: ForeignSettings, path: Path) -> dict[str, Any]:
    rate = s.number("sample_rate", into="losses.partial_fc.rate", default=1)
    optimizer = _optimizer(s)
    data: dict[str, Any] = {
        "seed": s.count("seed", into="seed", default=2048),
        "epochs": s.count("num_epoch", into="epochs", default=20),
        "log_every": s.count("frequent", into="log_every", default=10) or 10,
        "precision": "half" if s.flag("fp16", into="precision half: fp16 on a GPU, bf16 on a CPU") else "fp32",
        "model": _model(s),
        "losses": [_loss(s, rate)],
        "optimizer": optimizer,
        "schedule": _schedule(s),
        **_output(s, path),
        **_data(s),
    }
    accumulate = s.count("gradient_acc", into="optimizer.accumulate", default=1)
    if accumulate > 1 and rate < 1:
        s.leave_out("gradient_acc", "partial_fc updates its rows at every batch; raise data.batch instead")
    else:
        optimizer["accumulate"] = max(accumulate, 1)
    project = s.text("wandb_project", into="tracking.wandb", default="project")
    if s.flag("using_wandb", into="tracking.wandb"):
        data["tracking"] = {"wandb": project}
    else:
        s.leave_out_all({"wandb_project": "using_wandb is false"})
    s.leave_out_all(_NO_COUNTERPART)
    for name, why in _COUNTED.items():
        s.leave_out(name, why)
    if s.flag("resume", into="--resume auto"):
        s.approximate("resume", "rtool finetune --resume auto continues a run of rtool, not one of arcface_torch")
    else:
        s.leave_out_all({"resume": ""})
    s.flag("save_all_states", into="checkpoints")
    s.approximate("save_all_states", "every checkpoint has all states, so that it can be resumed")
    s.built_in("images are mirrored with probability 0.5", "converted", "augment.flip")
    return data


def _model(s: ForeignSettings) -> dict[str, Any]:
    name = s.text("network", into="model.reference", default="r50")
    reference = _NETWORKS.get(name)
    if reference is None:
        s.leave_out("network", f"{name} is not in rtool's zoo: give its ONNX file, model.reference=FILE.onnx")
    elif s.given("network"):
        s.approximate("network", f"model.reference {reference}, untrained; an ONNX backbone: model.reference=FILE.onnx")
    if name == "mbf" and s.given("network"):
        s.approximate("network", "model.reference mobilefacenet of the zoo; widths may differ from mbf")
    return {"reference": reference or _PLACEHOLDER, "preprocessing": "arcface"}


def _loss(s: ForeignSettings, rate: float) -> dict[str, Any]:
    margins = s.numbers("margin_list", into="losses.0.margins") or [1.0, 0.5, 0.0]
    if len(margins) != 3:
        s.refuse("margin_list", "three numbers m1, m2, m3")
    above = s.number("interclass_filtering_threshold", into="losses.arcface.filter_above", default=0)
    loss: dict[str, Any] = {"kind": "arcface", "scale": 64.0, "margins": margins}
    if margins[:2] != [1.0, 0.0]:
        loss["gradient"] = "straight_through"
        s.built_in("the margin has no gradient of its own", "converted", "losses.0.gradient straight_through")
    s.built_in("the scale of the cosines is 64", "converted", "losses.0.scale")
    if rate < 1:
        s.leave_out_all({"interclass_filtering_threshold": "partial_fc filters no cosines"})
        return {**loss, "kind": "partial_fc", "rate": rate}
    if s.given("sample_rate"):
        s.approximate("sample_rate", "losses.0 arcface, the same loss with all classes; for millions, kind partial_fc")
    if above > 0:
        loss["filter_above"] = above
    else:
        s.leave_out_all({"interclass_filtering_threshold": ""})
    return loss


def _optimizer(s: ForeignSettings) -> dict[str, Any]:
    kind = s.text("optimizer", into="optimizer.kind", default="sgd")
    if kind not in ("sgd", "adamw"):
        s.refuse("optimizer", "sgd or adamw, which train_v2.py knows")
    optimizer: dict[str, Any] = {
        "kind": kind,
        "lr": s.number("lr", into="optimizer.lr, of backbone and classes", default=0.1),
        "weight_decay": s.number("weight_decay", into="optimizer.weight_decay, norms as well", default=5e-4),
        "decay_norms": True,
        "clip": 5.0,
    }
    momentum = s.number("momentum", into="optimizer.momentum", default=0.9)
    if kind == "adamw":
        s.leave_out_all({"momentum": "adamw has none"})
    else:
        optimizer["momentum"] = 0.9
        if momentum != 0.9:
            s.leave_out("momentum", "train_v2.py trains with 0.9 whatever this says; set optimizer.momentum")
    s.built_in(
        "the norm of the backbone's gradient is clipped at 5",
        "approximated",
        "optimizer.clip 5, of backbone and classes together",
    )
    return optimizer


def _schedule(s: ForeignSettings) -> dict[str, Any]:
    warmup = s.number("warmup_epoch", into="schedule.warmup_epochs", default=0)
    milestones = s.numbers("decay_epoch", into="schedule.milestones")
    if milestones:
        return {"kind": "multistep", "milestones": milestones, "gamma": 0.1, "warmup_epochs": max(warmup, 0)}
    s.built_in(
        "the rate falls as a polynomial to 0",
        "converted",
        "schedule.kind polynomial; PolyScheduler has schedule.power 2",
    )
    return {"kind": "polynomial", "power": 1.0, "warmup_epochs": max(warmup, 0)}


def _output(s: ForeignSettings, path: Path) -> dict[str, Any]:
    written = s.text("output", into="output and name", default=f"work_dirs/{path.stem}")
    if s.given("output") and written == f"work_dirs/{path.stem}":
        s.approximate("output", f"output work_dirs and name {path.stem}, as there where nothing is named")
    folder = Path(written)
    name = re.sub(r"[^\w.-]", "_", folder.name).lstrip(".-") or "arcface_torch"
    return {"output": str(folder.parent), "name": name}


def _data(s: ForeignSettings) -> dict[str, Any]:
    rec = s.text("rec", "dataset", into="data.train", default="path/to/records")
    if rec == _RANDOM:
        s.leave_out("rec", "random pixels are not trained on; synthetic-faces:identities=100,images=10 draws faces")
    data: dict[str, Any] = {
        "train": rec,
        "batch": s.count("batch_size", into="data.batch, of each process", default=128),
        "workers": s.count("num_workers", into="data.workers", default=2),
    }
    steps = s.count("verbose", into="evaluation.every_steps", default=2000)
    targets = s.texts("val_targets", into="data.evaluate: REC/NAME.bin of each")
    if not targets:
        s.leave_out_all({"val_targets": "", "verbose": "there are no val_targets to measure"})
        return {"data": data, "evaluation": None}
    data["evaluate"] = {re.sub(r"[^\w-]", "_", name): f"{rec}/{name}.bin" for name in targets}
    evaluation: dict[str, Any] = {"protocol": "verification"}
    if steps:
        evaluation["every_steps"] = steps
    return {"data": data, "evaluation": evaluation}
