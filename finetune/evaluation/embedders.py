"""A model reference as a function from pixels to embeddings, whether ONNX Runtime, Triton or torch runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...converters.bundles.open_batch import settle_batch, settle_runner
from ...converters.bundles.reference import load_model, open_runner
from ...converters.records.json_text import parse_json
from ...converters.records.preprocessing import Preprocessing
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
    note: str = ""
    """What people should know of the batch it runs at; "" where it is as the model declares."""


def open_embedder(
    reference: str | Path | Runner,
    *,
    batch: int = 64,
    output: int = 0,
    device: str = "cpu",
    preprocessing: PreprocessingName = "auto",
    size: tuple[int, int] | None = None,
) -> Embedder:
    """Open `reference`: ONNX files in ONNX Runtime, `triton://` on its server, everything else in torch.

    Args:
        reference: A model reference, or a runner that is open already.
        batch: Images per call of the model; a model with a fixed batch keeps its own.
        output: Number of the output that is the embedding, from 0.
        device: "cpu" or "cuda:N"; the server chooses its own for `triton://`.
        preprocessing: Normalisation; "auto" uses the model's own, else the usual one for its input's shape.
        size: Height and width in pixels, for models that do not state it.

    Raises:
        InputError: the model does not exist, its input size is unknown or another, or it mixes images at every batch.
    """
    own: Preprocessing | None = None
    note = ""
    runner: Runner
    if not isinstance(reference, str | Path):
        runner = reference
    elif Path(reference).suffix == ".onnx" or str(reference).startswith("triton://"):
        runner = open_runner(reference, device=device)
        own = _stored_preprocessing(runner)
        if isinstance(runner, OnnxRunner):
            settled = settle_runner(runner)
            runner.batch, note = settled.batch, settled.note
    else:
        model = load_model(reference)
        own = model.preprocessing
        settled = settle_batch(model)
        note = settled.note
        runner = TorchRunner(
            model.module,
            inputs=model.inputs,
            outputs=model.outputs,
            device=device,
            name=model.name,
            batch=settled.batch,
        )
    chosen = choose_preprocessing(runner.name, own, runner.inputs, name=preprocessing, size=size)
    return replace(embedder_of(runner, chosen, batch=batch, output=output), note=note)


def embedder_of(runner: Runner, preprocessing: Preprocessing, *, batch: int = 64, output: int = 0) -> Embedder:
    """A runner as an embedder; one with uint8 input has the preprocessing in its graph and is given the pixels.

    Raises:
        InputError: when `embed` is called, the runner has no output of that number.
    """
    takes_pixels = bool(runner.inputs) and runner.inputs[0].dtype == "uint8"

    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs = run_in_batches(runner, pixels if takes_pixels else preprocessing.normalise(pixels), batch)
        if output >= len(outputs):
            raise InputError(f"{runner.name}: output {output} was asked for and it has {len(outputs)}; count from 0")
        rows: NDArray[np.float32] = outputs[output].reshape(len(pixels), -1).astype(np.float32)
        return rows

    return Embedder(runner.name, preprocessing, embed)


def _stored_preprocessing(runner: Runner) -> Preprocessing | None:
    """The preprocessing that an exported ONNX file states in its metadata, under `rtool.preprocessing`."""
    if not isinstance(runner, OnnxRunner):
        return None
    stored = runner.session.get_modelmeta().custom_metadata_map.get("rtool.preprocessing")
    try:
        return Preprocessing.from_dict(parse_json(stored)) if stored else None
    except ValueError as error:
        raise InputError(f"{runner.name}: its stored preprocessing is not JSON ({error}); export it again") from error
