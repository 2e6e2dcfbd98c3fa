"""`model.weights`: a state_dict file loaded over the weights of the network a run starts from.

Which files are read, and which tensor is which, is the business of `converters.weights.state_dict_loading`; every
`--weights` loads by the same code.
Tensors of a classifier that the network does not have are not used. Everything the network has must be in the file,
unless `model.weights_may_lack` allows a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ...converters.bundles.loaded_weights import load_and_measure
from ...converters.bundles.reference import Model
from ...converters.weights.weight_match import WeightMatch
from ..config.name_patterns import matches

__all__ = ["load_weights"]


def load_weights(
    module: nn.Module, path: Path, may_lack: Sequence[str] = (), model: Model | None = None
) -> WeightMatch:
    """Copy the tensors in the file at `path` into `module`, converted to the dtypes that it has.

    Args:
        module: The network, any module.
        path: A `.safetensors` file, or what `torch.save` wrote.
        may_lack: Patterns of tensor or module names; tensors that they match keep their values where the file lacks
            them.
        model: The model that the module is of, where it was opened from one; its inputs and its graph are used.

    Raises:
        InputError: the file cannot be read, lacks or misfits tensors of the network, has none of them or two for the
            same place, or holds values that are not finite.
    """
    return load_and_measure(
        module,
        path,
        inputs=model.inputs if model is not None else (),
        graph=model.graph if model is not None else None,
        fresh=model is not None and model.kind == "zoo",
        may_lack=lambda name: any(matches(name, pattern) for pattern in may_lack),
        may_have_others=True,
        way_out="give the weights of this network, or allow gaps with model.weights_may_lack",
    )
