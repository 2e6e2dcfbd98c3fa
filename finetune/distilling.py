"""Distil: a student learns the embeddings of a teacher. The call behind `rtool distil`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .config.short_forms import distil_config
from .finetuning import FinetuneResult, finetune

__all__ = ["distil"]


def distil(
    teacher: str | Path,
    student: str | Path,
    data: str | Path,
    overrides: Sequence[str] = (),
    *,
    labels: bool = True,
    evaluate: str | Path | None = None,
    nproc: int | Literal["auto"] = 1,
    resume: Literal["auto"] | str | Path | None = None,
    quiet: bool = False,
    progress: bool = True,
) -> FinetuneResult:
    """Train `student` to give the embeddings that `teacher` gives; short for `finetune` with a section `distil`.

    Args:
        teacher: A model reference, or triton://host:port/model.
        student: A model reference that can be trained.
        data: Images, as `data.train`.
        overrides: `key.path=value`, which change fields of the configuration.
        labels: Whether `data` has identities, of which some are held out; without them it may be any folder of images.
        evaluate: Labelled images to measure on; by default some identities of `data`, and nothing without labels.
        nproc: Processes, as for `finetune`.
        resume: A run to continue, as for `finetune`.
        quiet: Print nothing; the log file has every line anyway.
        progress: Draw a bar where stderr is a terminal.

    Raises:
        RtoolError: as `finetune`; also where the teacher cannot be reached or nothing tells its preprocessing.
    """
    config = distil_config(teacher, student, data, overrides, labels=labels, evaluate=evaluate)
    return finetune(config, nproc=nproc, resume=resume, quiet=quiet, progress=progress)
