"""Search: cells for a network, instead of weights for one. The call behind `rtool search`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .config.config import FinetuneConfig
from .config.short_forms import search_config
from .finetuning import FinetuneResult, finetune

__all__ = ["search"]


def search(
    config: str | Path | FinetuneConfig,
    overrides: Sequence[str] = (),
    *,
    nproc: int | Literal["auto"] = 1,
    resume: Literal["auto"] | str | Path | None = None,
    quiet: bool = False,
    progress: bool = True,
) -> FinetuneResult:
    """Search cells with the data, losses and optimizer of a configuration: `finetune` with a section `search`.

    Args:
        config: A YAML file, or a configuration, of a search or of any run; what it says of a model's weights is left
            out.
        overrides: `key.path=value`, which change fields of the configuration.
        nproc: Processes, as for `finetune`.
        resume: A run to continue, as for `finetune`.
        quiet: Print nothing; the log file has every line anyway.
        progress: Draw a bar where stderr is a terminal.

    Raises:
        RtoolError: as `finetune`; also where an identity has one image, or images are too low for the space.
    """
    return finetune(search_config(config, overrides), nproc=nproc, resume=resume, quiet=quiet, progress=progress)
