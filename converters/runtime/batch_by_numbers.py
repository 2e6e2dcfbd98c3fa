"""Find out by running it whether a converted module supports other batches than the fixed batch of its file."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from ..records.record import require_record
from .parity import measure_parity
from .probes.open_sizes import closed_sizes
from .probes.probing import probe_inputs
from .runners import Runner

__all__ = ["fixed_batch_by_numbers"]


def fixed_batch_by_numbers(module: fx.GraphModule, reference: Runner, tolerance: float) -> int | None:
    """The only batch that `module` supports; None when it agrees with the file at another batch too.

    `reference` is the file `module` was converted from. With a fixed batch of N, the module runs on N + 1 images: the
    first N and the last N rows of each output must equal the file's outputs for those images.

    Args:
        module: the converted module, in eval mode.
        reference: the file in ONNX Runtime.
        tolerance: largest relative error (see `Parity.max_rel`).
    """
    size = reference.batch
    if size is None or any(not spec.shape or spec.shape[0] != size for spec in reference.inputs):
        return size
    record = require_record(module)
    specs = closed_sizes(reference.inputs, record.preprocessing)
    chunks = [probe_inputs(specs, size, seed=seed) for seed in (0, 1)]
    arrays = [np.concatenate([first[:1], second]) for first, second in zip(*chunks, strict=True)]
    names = [spec.name for spec in reference.inputs]
    tensors = [torch.from_numpy(arrays[names.index(spec.name)]) for spec in record.inputs]
    try:
        with torch.no_grad():
            # Not `module(...)`: torch.fx prints the generated code on the terminal when a call raises.
            result = module.forward(*tensors)
    except (RuntimeError, IndexError):
        return size
    outputs = [tensor.numpy() for tensor in (result if isinstance(result, tuple | list) else (result,))]
    if any(output.shape[:1] != (size + 1,) for output in outputs):
        return size
    for rows in (slice(0, size), slice(1, size + 1)):
        expected = reference.run(*(array[rows] for array in arrays))
        if not measure_parity(expected, [output[rows] for output in outputs]).max_rel <= tolerance:
            return size
    return None
