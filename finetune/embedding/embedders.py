"""A model reference as a function from pixels to embeddings, whether ONNX Runtime, Triton or torch runs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...converters.bundles.open_batch import settle_batch, settle_runner
from ...converters.preprocessing.decision import PreprocessingDecision, decide_preprocessing
from ...converters.preprocessing.evidence import (
    PreprocessingEvidence,
    evidence_of_file,
    evidence_of_inputs,
    stated_in_metadata,
)
from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.probes.filled_inputs import described, digest_with_probes, image_runner
from ...converters.runtime.probes.given_probes import Probe
from ...converters.runtime.reference_runner import ReferenceRunner
from ...converters.runtime.runners import OnnxRunner, Runner, TorchRunner, run_in_batches
from ...converters.runtime.triton import TritonRunner, refuse_weights
from ...errors import InputError
from ..processes.cores import available_cores
from .batch_size import fitting_batch
from .cache import EmbeddingCache, cache_key
from .model_digest import digest_of_model, digest_of_runner

__all__ = ["Embed", "Embedder", "embedder_of", "evidence_of", "open_embedder"]


_SERVED_LANES = 4
"""Requests on their way to a server at once: enough that it never waits for the client."""

_IMAGE_TYPES = ("uint8", "float32", "float16", "bfloat16", "float64")

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Pixels uint8 [N, H, W, C] in RGB (or grey) order -> embeddings float32 [N, D]."""


@dataclass(frozen=True)
class Embedder:
    """`embed` turns pixels uint8 [N, H, W, C], as `preprocessing.resize` makes them, into embeddings float32 [N, D]."""

    name: str
    decision: PreprocessingDecision
    """The preprocessing, and where it comes from."""
    embed_at: Callable[[int, NDArray[np.uint8]], NDArray[np.float32]]
    """`embed` with the number of images per call of the model before the pixels."""
    digest: Callable[[], str]
    """What it computes with, see `model_digest`; raises `InputError` where nothing can tell."""
    output: int = 0
    """Number of the output that is the embedding."""
    lanes: int = 1
    """Calls that may be made at once from several threads, and are then faster than one after another."""
    batch: int = 64
    """Images per call of the model."""
    notes: tuple[str, ...] = ()
    """What to tell the user about how it was opened."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing alone."""
        return self.decision.preprocessing

    @property
    def embed(self) -> Embed:
        """From pixels to embeddings, `batch` images per call of the model."""
        return partial(self.embed_at, self.batch)

    def cache(self, folder: str | Path, *, flip: bool, report: Callable[[str], object] | None = None) -> EmbeddingCache:
        """The kept embeddings of this model in `folder`, `flip` being whether they include those of mirror images.

        Raises:
            InputError: `folder` cannot be written into, or nothing tells this model from another.
        """
        key = cache_key(self.digest(), self.preprocessing, flip=flip, output=self.output)
        return EmbeddingCache(folder, key, report=report)


def open_embedder(
    reference: str | Path | Runner,
    *,
    batch: int | Literal["auto"] = 64,
    output: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    preprocessing: str | Preprocessing | None = None,
    size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
    probes: Mapping[str, Probe] | None = None,
) -> Embedder:
    """Open `reference`: ONNX files in ONNX Runtime, `triton://` on its server, everything else in torch.

    Args:
        reference: A model reference, or a runner that is open already.
        batch: Images per call of the model; a model with a fixed batch keeps its own. "auto": see `fitting_batch`.
        output: Number of the output that is the embedding, from 0.
        device: "cpu" or "cuda:N"; the server chooses its own for `triton://`.
        threads: Of one call of ONNX Runtime on a CPU; by default all cores.
        preprocessing: A preprocessing, or what `--preprocessing` takes; by default the model's own, see
            `converters.preprocessing.decision`.
        size: Height and width in pixels, for models that do not state it.
        weights: A state_dict file to load over the model's own weights; it runs in torch then.
        probes: The value of each input beside the image, by name, the same for every image.

    Raises:
        InputError: the model does not exist, its input size is unknown or another, `output` is negative, `weights` or a
            probe does not fit, an input beside the image has no value, or it mixes images at every batch.
    """
    if output < 0:
        raise InputError(f"output {output} was asked for; outputs count from 0")
    given = probes or {}
    runner, evidence, notes, digest = _opened(reference, device, weights, threads, given)
    decision = decide_preprocessing(evidence, preprocessing, size)
    made = embedder_of(runner, decision, output=output, probes=given)
    notes = (*notes, *(f"{runner.name}: {said}" for said in described(given)))
    made = replace(made, notes=notes, digest=lambda: digest_with_probes(digest(), given))
    if batch == "auto":
        batch = fitting_batch(made.embed_at, decision.preprocessing, runner.batch, device)
    return replace(made, batch=batch)


def _opened(
    reference: str | Path | Runner,
    device: str,
    weights: str | Path | None,
    threads: int | None,
    probes: Mapping[str, Probe],
) -> tuple[Runner, PreprocessingEvidence, tuple[str, ...], Callable[[], str]]:
    """A runner, what it shows of its preprocessing, notes, and how its digest is found; a file is read once."""
    if not isinstance(reference, str | Path):
        if weights is not None:
            raise InputError(f"{weights}: is loaded into a model that is opened, and {reference.name} is open already")
        return reference, _of_runner(reference, probes), (), partial(digest_of_runner, reference)
    if str(reference).startswith("triton://") or (weights is None and Path(reference).suffix == ".onnx"):
        runner, notes = _outside_torch(str(reference), device, weights, threads, probes)
        return runner, _of_runner(runner, probes), notes, partial(digest_of_runner, runner)
    from ...converters.bundles.reference import load_model

    model = load_model(reference, weights)
    settled = settle_batch(model, probes)
    loaded = "" if model.weights is None else f"{weights}: {model.weights}"
    notes = tuple(filter(None, (loaded, settled.note)))
    torch_runner = TorchRunner(
        model.module, inputs=model.inputs, outputs=model.outputs, device=device, name=model.name, batch=settled.batch
    )
    return torch_runner, replace(model.evidence(probes), label=model.name), notes, partial(digest_of_model, model)


def _outside_torch(
    reference: str, device: str, weights: str | Path | None, threads: int | None, probes: Mapping[str, Probe]
) -> tuple[Runner, tuple[str, ...]]:
    """The runner of a served model or an ONNX file, and notes; torch is not loaded for it."""
    if reference.startswith("triton://"):
        refuse_weights(reference, weights)
        served = TritonRunner.from_reference(reference)
        served.model.pin()  # embeddings of two versions do not compare
        return served, ()
    runner = OnnxRunner(reference, device, threads)
    batch = settle_runner(runner, probes)
    runner.batch = batch.batch
    return runner, ((batch.note,) if batch.note else ())


def _of_runner(runner: Runner, given: Collection[str] = ()) -> PreprocessingEvidence:
    if isinstance(runner, OnnxRunner | ReferenceRunner):
        return evidence_of_file(runner.file, given)
    evidence = evidence_of_inputs(runner.name, runner.inputs, given)
    if isinstance(runner, TritonRunner):
        stated = stated_in_metadata(runner.name, runner.model.parameters)
        return replace(evidence.stating(stated, "stated by the server's configuration"), served=True)
    return evidence


def evidence_of(reference: str | Path, runner: Runner, given: Collection[str] = ()) -> PreprocessingEvidence:
    """What a model shows of its preprocessing, given its reference and the runner that was opened of it.

    Its inputs in `given` have a value of their own.

    Raises:
        InputError: it states something that is not a preprocessing.
    """
    if isinstance(runner, TorchRunner):
        from ...converters.bundles.reference import load_model

        return replace(load_model(reference).evidence(given), label=runner.name)
    return _of_runner(runner, given)


def embedder_of(
    runner: Runner,
    decision: PreprocessingDecision,
    *,
    batch: int = 64,
    output: int = 0,
    probes: Mapping[str, Probe] | None = None,
) -> Embedder:
    """A runner as an embedder; one with uint8 input has the normalisation in its graph and is given the pixels.

    Raises:
        InputError: an input beside the image is read and not in `probes`; or, when `embed` is called, the runner has no
            output of that number.
    """
    on_images = image_runner(runner, decision.preprocessing, probes)
    spec = on_images.inputs[0] if on_images.inputs else None
    if spec is not None and spec.dtype not in _IMAGE_TYPES:
        raise InputError(
            f"{runner.name}: input '{spec.name}' is {spec.dtype}, and images are {', '.join(_IMAGE_TYPES)}; put a "
            "Cast from float32 in front of it"
        )

    def embed(size: int, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images: NDArray[Any] = decision.preprocessing.normalise(pixels)
        if spec is not None and spec.dtype in ("float16", "float64", "uint8"):
            images = images.astype(spec.dtype)
        outputs = run_in_batches(on_images, images, size)
        if output >= len(outputs):
            raise InputError(f"{runner.name}: output {output} was asked for and it has {len(outputs)}; count from 0")
        rows: NDArray[np.float32] = outputs[output].reshape(len(pixels), -1).astype(np.float32)
        return rows

    lanes = _SERVED_LANES if isinstance(runner, TritonRunner) else 1
    if isinstance(runner, OnnxRunner) and runner.device == "cpu" and runner.threads == 1:
        cores = available_cores()
        lanes = cores + (cores > 1)  # one computes while another waits for Python's lock or the disk
    return Embedder(runner.name, decision, embed, partial(digest_of_runner, runner), output, lanes, batch)
