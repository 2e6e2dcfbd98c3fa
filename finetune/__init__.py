"""Room: fine-tuning. Data, losses, the training loop and evaluation; `rtool.finetune(...)` is `finetuning.finetune`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, cast

from ..lazy import lazy_exports

if TYPE_CHECKING:
    from .config.config import FinetuneConfig
    from .finetuning import FinetuneResult

_PUBLIC: dict[str, str] = {
    "Dataset": ".data.dataset",
    "EmbeddingCache": ".embedding.cache",
    "EvaluatedImages": ".evaluation.own_function",
    "FinetuneConfig": ".config.config",
    "FinetuneResult": ".finetuning",
    "RetrievalResult": ".evaluation.ranks.retrieval",
    "VerificationResult": ".evaluation.pairs.verification",
    "EmbedResult": ".embedding.image_embeddings",
    "embed": ".embedding.image_embeddings",
    "distil": ".distilling",
    "evaluate": ".evaluation.evaluation",
    "evaluate_embeddings": ".evaluation.evaluation",
    "load_config": ".config.files",
    "open_dataset": ".data.formats.sources",
    "synthetic_faces": ".data.synthetic.synthetic_faces",
    "synthetic_people": ".data.synthetic.synthetic_people",
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)


class _CallableRoom(ModuleType):
    """The command and the room share a name, and a module of a package wins over a name in it; so it is callable."""

    def __call__(
        self,
        config: str | Path | FinetuneConfig,
        overrides: Sequence[str] = (),
        *,
        nproc: int | Literal["auto"] = 1,
        resume: Literal["auto"] | str | Path | None = None,
        resume_with: Sequence[str] = (),
        quiet: bool = False,
        progress: bool = True,
    ) -> FinetuneResult:
        """Train as `config` (with `key=value` overrides) says; arguments and errors as of `finetuning.finetune`."""
        from .finetuning import finetune

        return finetune(
            config,
            overrides,
            nproc=nproc,
            resume=resume,
            resume_with=resume_with,
            quiet=quiet,
            progress=progress,
        )


sys.modules[__name__].__class__ = _CallableRoom

finetune = cast("_CallableRoom", sys.modules[__name__])
"""So that the package's lazy table finds `rtool.finetune` before the room has been imported."""
