"""The signature of a torch file under the names that a configuration gives to its inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ....converters.files.torch_archives.torch_names import meant_positions
from ....errors import InputError
from ..graph_signature import GraphSignature, GraphTensor
from .torch_file import TorchFile

__all__ = ["as_configured"]


def as_configured(signature: GraphSignature, config: Any) -> GraphSignature:
    """The signature with the names of `config`, a ModelConfig, where they are understood; ONNX keeps its own.

    Raises:
        InputError: a name of the configuration means no input or output, or one that another name means too.
    """
    if not isinstance(signature.file, TorchFile):
        return signature
    inputs = [str(entry.name) for entry in config.input]
    outputs = [str(entry.name) for entry in config.output]
    return replace(
        signature,
        inputs=_renamed("input", inputs, meant_positions(inputs, signature.file.arguments()), signature.inputs),
        outputs=_renamed("output", outputs, meant_positions(outputs), signature.outputs),
    )


def _renamed(
    kind: str, names: Sequence[str], positions: Sequence[int], tensors: Sequence[GraphTensor]
) -> tuple[GraphTensor, ...]:
    wrong = [
        f"{name!r} means {kind} {position}"
        for name, position in zip(names, positions, strict=True)
        if position >= len(tensors) or list(positions).count(position) > 1
    ]
    if wrong:
        raise InputError(
            f"{kind}: the model has {len(tensors)}, counted from 0, and the PyTorch back end understands "
            f"{', '.join(wrong)}; name them {kind.upper()}__0, {kind.upper()}__1, ... in their order"
        )
    by_position = dict(zip(positions, names, strict=True))
    return tuple(replace(one, name=by_position.get(index, one.name)) for index, one in enumerate(tensors))
