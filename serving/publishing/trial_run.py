"""Run a model before it is published: a file that cannot run, or whose outputs are of no use, never reaches a server.

It runs in this process, on the given examples or on smooth pictures, with eight rows at least, so that a model which
gives everybody the same embedding is found (`converters.runtime.nonsense`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.runtime.nonsense import IMAGES, find_nonsense
from ...converters.runtime.probes.open_sizes import closed_sizes
from ...converters.runtime.probes.probing import probe_inputs
from ...converters.runtime.runners import Runner, run_in_batches
from ...errors import GateError, InputError
from ..repository.graph_signature import GraphSignature
from ..repository.signatures.reading import constant_outputs, open_served
from ..repository.warmup import example_array

__all__ = ["try_out"]


def try_out(signature: GraphSignature, examples: Mapping[str, NDArray[Any]] | None) -> None:
    """Run the file once on `examples`, arrays [N, ...] by input name, or on pictures.

    Raises:
        InputError: it cannot be run, or gives other outputs than it states.
        GateError: an output has NaN or infinite values, or is the same for eight different inputs.
    """
    runner = open_served(signature)
    rows = max(IMAGES, signature.batch or 1)
    inputs = _rows(runner, signature, examples, rows)

    def run(*arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        return run_in_batches(runner, list(arrays), rows)

    names = [spec.name for spec in runner.outputs]
    outputs = run(*inputs)
    _check_stated(signature, outputs, len(inputs[0]))
    nonsense = find_nonsense(run, inputs, outputs, names, constant=constant_outputs(signature))
    if nonsense:
        on = "the examples" if examples is not None else "example images"
        lines = "".join(f"\n  output {said}" for said in nonsense)
        raise GateError(
            f"{signature.path}: its outputs on {on} are of no use, so it is not published (--force does not change "
            f"that); export it again from sound weights:{lines}"
        )


def _check_stated(signature: GraphSignature, outputs: Sequence[NDArray[Any]], rows: int) -> None:
    """Hold what came out to what the signature says, which the configuration repeats: a file may state anything."""
    found = [f"{output.dtype.name} {list(output.shape)}" for output in outputs]
    stated = [f"{one.dtype.name} {[rows, *one.dims[1:]]}" for one in signature.outputs]
    shapes = [(rows, *one.dims[1:]) for one in signature.outputs]
    fits = [
        output.dtype == one.dtype
        and output.ndim == len(shape)
        and all(size in (-1, real) for size, real in zip(shape, output.shape, strict=True))
        for one, output, shape in zip(signature.outputs, outputs, shapes, strict=True)
    ]
    if not all(fits):
        raise InputError(
            f"{signature.path}: states outputs {', '.join(stated)} for {rows} rows and gives {', '.join(found)}; "
            "export it again"
        )


def _rows(
    runner: Runner, signature: GraphSignature, examples: Mapping[str, NDArray[Any]] | None, rows: int
) -> list[NDArray[Any]]:
    """At most `rows` rows for every input, in graph order."""
    if examples is not None:
        return [np.asarray(examples[spec.name])[:rows] for spec in runner.inputs]
    if any(-1 in tensor.dims[1:] for tensor in signature.inputs):
        return list(probe_inputs(closed_sizes(runner.inputs), rows))
    pictures = {tensor.name: example_array(tensor, rows) for tensor in signature.inputs}
    return [pictures[spec.name] for spec in runner.inputs]
