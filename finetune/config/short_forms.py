"""Configurations that a short command fills in: `rtool distil TEACHER STUDENT DATA`, `rtool search CFG`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import FinetuneConfig
from .files import parse_config, read_config

__all__ = ["distil_config", "search_config"]

_TERMS = [{"kind": "cosine", "weight": 10.0}, {"kind": "rkd_distance", "weight": 100.0}]
"""They need no labels. In `make bench-distil` losses of labels beside them made short runs worse, not better."""


def distil_config(
    teacher: str | Path,
    student: str | Path,
    data: str | Path,
    overrides: Sequence[str] = (),
    *,
    labels: bool = True,
    evaluate: str | Path | None = None,
) -> FinetuneConfig:
    """The configuration of `rtool distil`.

    Args:
        teacher: A model reference, or triton://host:port/model.
        student: A model reference that can be trained.
        data: Images, as `data.train`.
        overrides: `key.path=value`, as for `rtool finetune`.
        labels: Whether `data` has identities, of which some are held out; without them it may be any folder of images.
        evaluate: Labelled images to measure on; by default some identities of `data`, and nothing without labels.

    Raises:
        ConfigError: unknown keys and wrong values, all of them in one message.
    """
    values: dict[str, Any] = {
        "name": "distil",
        "model": {"reference": str(student)},
        "data": {"train": str(data)} | ({} if evaluate is None else {"evaluate": str(evaluate)}),
        "losses": [],
        "distil": {"teachers": [{"reference": str(teacher)}], "terms": _TERMS, "labels": labels},
    }
    if not labels and evaluate is None:
        values["evaluation"] = None
    return parse_config(values, "distil", overrides)


def search_config(config: str | Path | FinetuneConfig, overrides: Sequence[str] = ()) -> FinetuneConfig:
    """The configuration of `rtool search`: that of a run, with a section `search`, whose model is `searched`.

    Of the section `model` only the preparation of images and the memory order are kept: a search builds its network.

    Args:
        config: A YAML file, or a configuration.
        overrides: `key.path=value`, as for `rtool finetune`.

    Raises:
        InputError: the file is missing.
        ConfigError: unknown keys and wrong values, all of them in one message.
    """
    values = read_config(config)
    values.setdefault("name", "search")
    if values.get("search") is None:
        values["search"] = {}
        model = values.get("model")
        kept = {key: value for key, value in model.items() if key in _OF_IMAGES} if isinstance(model, dict) else {}
        values["model"] = {**kept, "reference": "searched"}
    return parse_config(values, str(config) if isinstance(config, str | Path) else "config", overrides)


_OF_IMAGES = ("preprocessing", "size", "channels_last", "gradient_checkpointing", "sync_batchnorm")
