"""Configurations that a short command fills in: `rtool distil TEACHER STUDENT DATA`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import FinetuneConfig
from .files import parse_config

__all__ = ["distil_config"]

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
