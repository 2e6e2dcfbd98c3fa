"""The constructor call of a layer, read from the layer's attributes by way of the constructor's signature.

Every argument of the signature has an attribute of its own name; what equals the signature's default is left out.
Text is only written here, never edited: a representation is made for people and leaves things out.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ....errors import InputError

__all__ = ["LAYERS", "Argument", "Construction", "construction_of", "constructor"]

LAYERS: frozenset[type[nn.Module]] = frozenset(
    {
        # with weights: what the lowering makes
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU),
        # without: members of the zoo's networks
        *(nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
        *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    }
)
"""Layer types that `model.py` can construct."""
_LEADING = frozenset(
    {"in_channels", "out_channels", "in_features", "out_features", "num_features", "num_groups", "num_channels"}
    | {"num_parameters", "normalized_shape", "output_size", "p"}
)
"""Arguments whose meaning is plain from their place; the others are named."""
_SIZES = frozenset({"kernel_size", "stride", "padding", "output_padding", "dilation", "output_size"})
"""Arguments that take one number for all axes; a `normalized_shape` does not."""
_AFFINE = ("affine", "elementwise_affine")


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor call. `default` is the text of the signature's default, "" where it has none."""

    name: str
    text: str
    is_integer: bool
    is_named: bool
    default: str


@dataclass(frozen=True)
class Construction:
    """A constructor call: the name of the type as the file refers to it, and all arguments."""

    type: str
    arguments: tuple[Argument, ...]


def constructor(layer: nn.Module) -> str:
    """The call that makes a fresh layer with the attributes of `layer`; defaults are left out.

    Raises:
        InputError: there is no rule for the layer's type, or it holds weights of several types.
    """
    made = construction_of(layer)
    written = [argument for argument in made.arguments if argument.text != argument.default]
    texts = [f"{argument.name}={argument.text}" if argument.is_named else argument.text for argument in written]
    return f"{made.type}({', '.join(texts)})"


def construction_of(layer: nn.Module) -> Construction:
    """The constructor call of `layer` with every argument, those equal to their defaults included.

    Raises:
        InputError: as `constructor`.
    """
    kind = type(layer)
    if kind not in LAYERS:
        raise InputError(
            f"model.py: no rule to construct a layer of type {kind.__module__}.{kind.__name__}; expected one of "
            f"{', '.join(sorted(known.__name__ for known in LAYERS))}; report this model"
        )
    arguments = tuple(
        _argument(name, _value(layer, name), parameter.default, parameter.kind)
        for name, parameter in _signature(kind).items()
        if name != "device"
    )
    return Construction(f"nn.{kind.__name__}", arguments)


def _signature(kind: type[Any]) -> Mapping[str, inspect.Parameter]:
    parameters = list(inspect.signature(kind).parameters.items())
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: parameter for name, parameter in parameters if parameter.kind not in variadic}


def _value(layer: nn.Module, name: str) -> Any:
    if name == "bias":
        is_affine = all(getattr(layer, flag, True) for flag in _AFFINE)
        return layer.bias is not None if is_affine else True
    if name == "dtype":
        return _dtype(layer)
    value = getattr(layer, name)
    if name in _SIZES and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    if name == "normalized_shape":
        return value[0] if len(value) == 1 else tuple(value)
    return value


def _dtype(layer: nn.Module) -> torch.dtype | None:
    """The type of the layer's weights where it is not torch's usual one."""
    found = {tensor.dtype for tensor in layer.state_dict().values() if tensor.is_floating_point()}
    if len(found) > 1:
        raise InputError(
            f"model.py: a {type(layer).__name__} has weights of several types "
            f"({', '.join(sorted(map(str, found)))}), expected one; convert the file to float32 first"
        )
    return next(iter(found - {torch.float32}), None)


def _argument(name: str, value: Any, default: Any, kind: Any) -> Argument:
    text = _text(value)
    without = "" if default is inspect.Parameter.empty else _text(default)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    is_named = name not in _LEADING or kind is inspect.Parameter.KEYWORD_ONLY
    return Argument(name, text, is_integer, is_named, without)


def _text(value: Any) -> str:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")'
    return str(value) if isinstance(value, torch.dtype) else repr(value)
