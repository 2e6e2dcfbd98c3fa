"""A model reference as a function from pixels to embeddings, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    """`embed` takes pixels uint8 [N, H, W, C] as `preprocessing.resize` makes them, and gives float32 [N, D]."""

    name: str
    preprocessing: Preprocessing
    embed: Embed


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

    A runner is used as it is.

    Raises:
        InputError: it does not exist, does not say its input size, or has no such output.
    """
    own: Preprocessing | None = None
    runner: Runner
    if not isinstance(reference, str | Path):
        runner = reference
    elif Path(reference).suffix == ".onnx" or str(reference).startswith("triton://"):
        runner = open_runner(reference, device=device)
        own = _stored_preprocessing(runner)
    else:
        model = load_model(reference)
        own = model.preprocessing
        runner = TorchRunner(
            model.module, inputs=model.inputs, outputs=model.outputs, device=device, name=model.name, batch=model.batch
        )
    chosen = choose_preprocessing(runner.name, own, runner.inputs, name=preprocessing, size=size)
    return embedder_of(runner, chosen, batch=batch, output=output)


def embedder_of(runner: Runner, preprocessing: Preprocessing, *, batch: int = 64, output: int = 0) -> Embedder:
    """Any runner as an embedder; one that takes uint8 has the preprocessing in its graph and gets the pixels."""
    takes_pixels = bool(runner.inputs) and runner.inputs[0].dtype == "uint8"

    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs = run_in_batches(runner, pixels if takes_pixels else preprocessing.normalise(pixels), batch)
        if output >= len(outputs):
            raise InputError(f"{runner.name}: output {output} was asked for and it has {len(outputs)}; count from 0")
        rows: NDArray[np.float32] = outputs[output].reshape(len(pixels), -1).astype(np.float32)
        return rows

    return Embedder(runner.name, preprocessing, embed)


def _stored_preprocessing(runner: Runner) -> Preprocessing | None:
    """What an exported ONNX file says of its preprocessing, under `rtool.preprocessing` in its metadata."""
    if not isinstance(runner, OnnxRunner):
        return None
    stored = runner.session.get_modelmeta().custom_metadata_map.get("rtool.preprocessing")
    try:
        return Preprocessing.from_dict(parse_json(stored)) if stored else None
    except ValueError as error:
        raise InputError(f"{runner.name}: its stored preprocessing is not JSON ({error}); export it again") from error
