"""A model reference as a function from pixels to embeddings, whether ONNX Runtime, Triton or torch runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.bundles.open_batch import settle_batch, settle_runner
from ...converters.bundles.reference import Model, load_model, open_runner
from ...converters.records.json_text import parse_json
from ...converters.records.preprocessing import Preprocessing
from ...converters.records.preprocessing_guess import find_preprocessing
from ...converters.runtime.probes.open_sizes import closed_sizes, image_index
from ...converters.runtime.probes.probing import probe_inputs
from ...converters.runtime.runners import OnnxRunner, Runner, TorchRunner, run_in_batches
from ...errors import InputError
from ..network.model_preprocessing import PreprocessingName, choose_preprocessing

__all__ = ["Embed", "Embedder", "embedder_of", "open_embedder"]


Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Pixels uint8 [N, H, W, C] in RGB (or grey) order -> embeddings float32 [N, D]."""


@dataclass(frozen=True)
class Embedder:
    """`embed` turns pixels uint8 [N, H, W, C], as `preprocessing.resize` makes them, into embeddings float32 [N, D]."""

    name: str
    preprocessing: Preprocessing
    embed: Embed
    notes: tuple[str, ...] = ()
    """What to tell the user about how it was opened."""


def open_embedder(
    reference: str | Path | Runner,
    *,
    batch: int = 64,
    output: int = 0,
    device: str = "cpu",
    preprocessing: PreprocessingName = "auto",
    size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
) -> Embedder:
    """Open `reference`: ONNX files in ONNX Runtime, `triton://` on its server, everything else in torch.

    Args:
        reference: A model reference, or a runner that is open already.
        batch: Images per call of the model; a model with a fixed batch keeps its own.
        output: Number of the output that is the embedding, from 0.
        device: "cpu" or "cuda:N"; the server chooses its own for `triton://`.
        preprocessing: Normalisation; "auto" uses the model's own, else the usual one for its input's shape.
        size: Height and width in pixels, for models that do not state it.
        weights: A state_dict file to load over the model's own weights; it runs in torch then.

    Raises:
        InputError: the model does not exist, its input size is unknown or another, `output` is negative, `weights` does
            not fit, or it mixes images at every batch.
    """
    if output < 0:
        raise InputError(f"output {output} was asked for; outputs count from 0")
    own: Preprocessing | None = None
    notes: tuple[str, ...] = ()
    runner: Runner
    if not isinstance(reference, str | Path):
        if weights is not None:
            raise InputError(f"{weights}: is loaded into a model that is opened, and {reference.name} is open already")
        runner = reference
    elif str(reference).startswith("triton://") or (weights is None and Path(reference).suffix == ".onnx"):
        runner = open_runner(reference, device=device, weights=weights)
        own = _stored_preprocessing(runner)
        if isinstance(runner, OnnxRunner):
            settled = settle_runner(runner)
            runner.batch, notes = settled.batch, ((settled.note,) if settled.note else ())
    else:
        model = load_model(reference, weights)
        own = model.preprocessing or _stated_preprocessing(model)
        settled = settle_batch(model)
        loaded = "" if model.weights is None else f"{weights}: {model.weights}"
        notes = tuple(filter(None, (loaded, settled.note)))
        runner = TorchRunner(
            model.module,
            inputs=model.inputs,
            outputs=model.outputs,
            device=device,
            name=model.name,
            batch=settled.batch,
        )
    chosen = choose_preprocessing(runner.name, own, runner.inputs, name=preprocessing, size=size)
    return replace(embedder_of(runner, chosen, batch=batch, output=output), notes=notes)


def embedder_of(runner: Runner, preprocessing: Preprocessing, *, batch: int = 64, output: int = 0) -> Embedder:
    """A runner as an embedder; one with uint8 input has the preprocessing in its graph and is given the pixels.

    Raises:
        InputError: when `embed` is called, the runner has no output of that number.
    """
    image = image_index(runner.inputs) if len(runner.inputs) > 1 else 0
    spec = runner.inputs[image] if runner.inputs and image is not None else None
    unread = runner.unread if isinstance(runner, OnnxRunner | TorchRunner) else frozenset()
    needed = [entry.name for entry in runner.inputs if entry is not spec and entry.name not in unread]
    if image is None or needed:
        raise InputError(
            f"{runner.name}: needs more than images ({', '.join(needed)}), so it cannot be evaluated on them"
        )

    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images: NDArray[Any] = pixels if spec is not None and spec.dtype == "uint8" else preprocessing.normalise(pixels)
        if spec is not None and spec.dtype == "float16":
            images = images.astype(np.float16)
        arrays: list[NDArray[Any]] = [images]
        if len(runner.inputs) > 1:
            arrays = list(probe_inputs(closed_sizes(runner.inputs), len(images)))  # nothing reads the others
            arrays[image] = images
        outputs = run_in_batches(runner, arrays, batch)
        if output >= len(outputs):
            raise InputError(f"{runner.name}: output {output} was asked for and it has {len(outputs)}; count from 0")
        rows: NDArray[np.float32] = outputs[output].reshape(len(pixels), -1).astype(np.float32)
        return rows

    return Embedder(runner.name, preprocessing, embed)


def _stated_preprocessing(model: Model) -> Preprocessing | None:
    """The preprocessing that the metadata of an ONNX file states."""
    if model.file is None:
        return None
    found = find_preprocessing((), model.file.metadata)
    return found.preprocessing if found is not None else None


def _stored_preprocessing(runner: Runner) -> Preprocessing | None:
    """The preprocessing that an exported ONNX file states in its metadata, under `rtool.preprocessing`."""
    if not isinstance(runner, OnnxRunner):
        return None
    stored = runner.session.get_modelmeta().custom_metadata_map.get("rtool.preprocessing")
    try:
        return Preprocessing.from_dict(parse_json(stored)) if stored else None
    except ValueError as error:
        raise InputError(f"{runner.name}: its stored preprocessing is not JSON ({error}); export it again") from error
