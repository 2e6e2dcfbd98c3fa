"""Which model embeds the crops: MODEL, else the first `--fallback` that loads and embeds one blank image.

Weights are never random unless that is allowed, and then every result says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...converters.runtime.probes.given_probes import Probe
from ...converters.zoo.facts import FACTS
from ...errors import InputError, PlatformError, RtoolError
from ...finetune.embedding.embed_images import EmbedImages
from ...finetune.embedding.embedders import Embedder, open_embedder
from ..repository.devices import gpu_present

__all__ = ["Attempt", "ModelType", "OpenedModel", "open_first", "type_of"]

ModelType = Literal["onnx", "torch", "triton", "random"]
RANDOM = "the weights are random: similarities mean nothing"


@dataclass(frozen=True)
class Attempt:
    """One model that was tried; `failure` is empty for the one that runs."""

    reference: str
    model_type: ModelType
    device: str
    failure: str = ""

    def __str__(self) -> str:
        return f"{self.reference} ({self.model_type}, {self.device}): {self.failure or 'runs'}"


@dataclass(frozen=True)
class OpenedModel:
    """The model that runs, and what was tried before."""

    embedder: Embedder
    cache_folder: Path | None
    """Folder of its known embeddings."""
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]

    @property
    def model_type(self) -> ModelType:
        """What computes: ONNX Runtime, torch, a served model, or weights that nobody trained."""
        return self.attempts[-1].model_type

    @property
    def warnings(self) -> tuple[str, ...]:
        """What every reader of the results must know."""
        return (RANDOM,) if self.model_type == "random" else ()


def type_of(reference: str, weights: str | Path | None) -> ModelType:
    """The kind of a model reference."""
    if reference.startswith("triton://"):
        return "triton"
    if reference in FACTS:
        return "random" if weights is None else "torch"
    return "onnx" if Path(reference).suffix == ".onnx" else "torch"


def open_first(
    references: Sequence[str],
    *,
    weights: str | Path | None = None,
    probes: Mapping[str, Probe] | None = None,
    allow_random: bool = False,
    batch: int | Literal["auto"] = 16,
    device: str = "auto",
    preprocessing: str | None = None,
    cache: Path | None = None,
    report: Callable[[str], object] = lambda _: None,
) -> OpenedModel:
    """Open the first of `references` that embeds one blank image.

    Args:
        references: Model references in the order of trying.
        weights: A state_dict file, loaded into each that is a zoo name.
        probes: The value of each input beside the image, by name.
        allow_random: Whether a zoo name without weights may run.
        batch: Images per call, or "auto"; a fixed batch keeps its own.
        device: "auto" is a GPU where there is one.
        preprocessing: How images are prepared; by default as the model states.
        cache: Folder of known embeddings.
        report: Called with a line per attempt.

    Raises:
        InputError: none runs, with the reason of each; or `weights` would go nowhere.
        PlatformError: none runs, and a package is missing.
    """
    if weights is not None and not any(reference in FACTS for reference in references):
        raise InputError(
            f"--weights {weights}: are loaded into a zoo name such as osnet_x0_25; give one as MODEL or --fallback"
        )
    attempts: list[Attempt] = []
    for reference in references:
        own = weights if reference in FACTS else None
        kind = type_of(reference, own)
        for place in _devices(device):
            try:
                if kind == "random" and not allow_random:
                    raise InputError(
                        "has random weights; give --weights FILE.pth, or --allow-random to go on with them"
                    )
                options: dict[str, Any] = {"preprocessing": preprocessing, "weights": own, "probes": probes}
                embedder = open_embedder(reference, batch=batch, device=place, threads=1, **options)
                _try_blank(embedder, cache)
            except (RtoolError, ImportError) as error:
                attempts.append(Attempt(reference, kind, place, str(error)))
                report(str(attempts[-1]))
                continue
            attempts.append(Attempt(reference, kind, place))
            notes = (*embedder.notes, *_device_note(device, place))
            opened = OpenedModel(embedder, cache, tuple(attempts), notes)
            for line in (*([str(attempts[-1])] if len(attempts) > 1 else []), *notes, *opened.warnings):
                report(line)
            return opened
    raise _none_loads(attempts)


def _none_loads(attempts: Sequence[Attempt]) -> RtoolError:
    lines = "".join(f"\n  {attempt}" for attempt in attempts)
    if any("No module named" in attempt.failure for attempt in attempts):
        return PlatformError(f"no model could be loaded, a package is missing:{lines}")
    return InputError(f"no model could be loaded:{lines}")


def _try_blank(embedder: Embedder, cache: Path | None) -> None:
    """Embed one blank image, unless the cache knows it."""
    known = None if cache is None else embedder.cache(cache, flip=True)
    size = embedder.preprocessing
    blank = np.full((1, size.height, size.width, size.channels), 128, dtype=np.uint8)
    digest = np.frombuffer(hashlib.sha256(b"blank" + blank.tobytes()).digest(), dtype=np.uint8)[None]
    with EmbedImages(embedder.embed, flip=True, batch=1, cache=known) as embed:
        embed(blank, digest)


def _devices(device: str) -> tuple[str, ...]:
    if device != "auto":
        return (device,)
    return ("cuda", "cpu") if gpu_present() else ("cpu",)


def _device_note(asked: str, place: str) -> tuple[str, ...]:
    if asked != "auto" or place != "cpu":
        return ()
    return ("--device auto: cpu, for no NVIDIA GPU can be used here",)
