"""Find out by running it whether a converted module supports other batches than the fixed batch of its file."""

from __future__ import annotations

import torch
from torch import fx

from ...records.batch_proof import BatchProof
from ...records.record import require_record
from ..probes.open_sizes import closed_sizes
from ..runners import TORCH_REFUSALS, Runner
from .batch_proof import BatchImages, batch_error

__all__ = ["prove_other_batches"]


def prove_other_batches(module: fx.GraphModule, reference: Runner, tolerance: float) -> BatchProof | None:
    """The proof that `module` takes any batch; None where it takes only the fixed batch of its file.

    `reference` is the file `module` was converted from. The result of one image is the first row of a batch of its
    copies. With a fixed batch of N, the module runs on one image and on N + 1 images (on 3, where N is 1), and each row
    must be what the file gives for that image.

    Args:
        module: the converted module, in eval mode.
        reference: the file in ONNX Runtime.
        tolerance: largest relative error (see `Parity.max_rel`).
    """
    size = reference.batch
    if size is None or any(not spec.shape or spec.shape[0] != size for spec in reference.inputs):
        return None
    sizes = (3,) if size == 1 else (1, size + 1)
    specs = closed_sizes(reference.inputs, require_record(module).preprocessing)
    images = BatchImages.of(specs, 3 if size == 1 else 2)
    singles = []
    for index in range(images.distinct):
        outputs = reference.run(*images.rows([index] * size))
        if any(not output.ndim or len(output) != size for output in outputs):
            return None
        singles.append(tuple(output[:1] for output in outputs))
    names, worst = [spec.name for spec in reference.inputs], 0.0
    for count in sizes:
        arrays = images.rows(range(count))
        tensors = [torch.from_numpy(arrays[names.index(spec.name)]) for spec in require_record(module).inputs]
        try:
            with torch.no_grad():
                # Not `module(...)`: torch.fx prints the generated code on the terminal when a call raises.
                result = module.forward(*tensors)
        except TORCH_REFUSALS:
            return None
        got = [tensor.numpy() for tensor in (result if isinstance(result, tuple | list) else (result,))]
        error = batch_error([singles[index % images.distinct] for index in range(count)], got)
        if isinstance(error, str) or not error <= tolerance:
            return None
        worst = max(worst, error)
    return BatchProof(tuple(sorted({1, size, *sizes})), worst)
