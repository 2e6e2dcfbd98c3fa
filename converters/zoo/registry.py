"""The table of architectures rtool can build by name, with the preprocessing each expects.

`build_architecture("osnet_x0_25")` makes the module with fresh weights; trained weights come from a bundle or a
state_dict and are never downloaded. Options are the keyword arguments of the architecture's class.

To add an architecture: write a file beside this one and add a row to `ZOO`, and a row to `_VALUES` for each new option.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ...errors import InputError, nearest
from ..records.preprocessing import ARCFACE, IMAGENET, Preprocessing
from .adaface_ir import AdaFaceIR
from .cells.searched import SearchedNetwork, open_genotype
from .iresnet import IResNet
from .mobilefacenet import MobileFaceNet
from .osnet import OSNet
from .pcb import PCB
from .resnet import ResNet50
from .vit import VisionTransformer

__all__ = ["ZOO", "Architecture", "architecture_preprocessing", "build_architecture", "stated_options"]


@dataclass(frozen=True)
class Architecture:
    """One row of the table: the class, the arguments that make this variant, and its preprocessing."""

    build: Callable[..., nn.Module]
    preprocessing: Preprocessing
    task: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> tuple[str, ...]:
        """The option names that a caller may pass."""
        return tuple(name for name in inspect.signature(self.build).parameters if name not in self.arguments)

    @property
    def needed(self) -> tuple[str, ...]:
        """The options without which it cannot be built."""
        parameters = inspect.signature(self.build).parameters
        return tuple(name for name in self.options if parameters[name].default is inspect.Parameter.empty)


def _person(build: Callable[..., nn.Module], **arguments: Any) -> Architecture:
    return Architecture(build, IMAGENET, "person re-identification", arguments)


def _face(build: Callable[..., nn.Module], **arguments: Any) -> Architecture:
    return Architecture(build, ARCFACE, "face recognition", arguments)


def _adaface(**arguments: Any) -> Architecture:
    return Architecture(AdaFaceIR, replace(ARCFACE, channel_order="bgr"), "face recognition", arguments)


ZOO: Mapping[str, Architecture] = {
    "osnet_x0_25": _person(OSNet, width=0.25),
    "osnet_x0_5": _person(OSNet, width=0.5),
    "osnet_x0_75": _person(OSNet, width=0.75),
    "osnet_x1_0": _person(OSNet, width=1.0),
    "resnet50": _person(ResNet50, ibn=False),
    "resnet50_ibn_a": _person(ResNet50, ibn=True),
    "pcb": Architecture(PCB, replace(IMAGENET, height=384), "person re-identification"),
    "iresnet18": _face(IResNet, depths=(2, 2, 2, 2)),
    "iresnet34": _face(IResNet, depths=(3, 4, 6, 3)),
    "iresnet50": _face(IResNet, depths=(3, 4, 14, 3)),
    "iresnet100": _face(IResNet, depths=(3, 13, 30, 3)),
    "iresnet200": _face(IResNet, depths=(6, 26, 60, 6)),
    "ir18_adaface": _adaface(depths=(2, 2, 2, 2)),
    "ir34_adaface": _adaface(depths=(3, 4, 6, 3)),
    "ir50_adaface": _adaface(depths=(3, 4, 14, 3)),
    "ir101_adaface": _adaface(depths=(3, 13, 30, 3)),
    "mobilefacenet": _face(MobileFaceNet, depths=(4, 6, 2)),
    "vit_tiny": _face(VisionTransformer, dim=256, depth=12, heads=8, patch=9),
    "searched": _person(SearchedNetwork),
}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_size(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_count, value))


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


_COUNT: tuple[str, Callable[[Any], bool]] = ("a whole number from 1 on", _is_count)
_VALUES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "cells": ("a whole number from 3 on", lambda value: _is_count(value) and value >= 3),
    "channels": ("a whole number from 2 on", lambda value: _is_count(value) and value >= 2),
    "dropout": ("a share from 0 to below 1", _is_share),
    "embedding_size": _COUNT,
    "genotype": ("a file genotype.json, or its content", lambda value: isinstance(value, (str, Mapping))),
    "global_dim": ("a whole number from 0", lambda value: _is_count(value) or (value == 0 and value is not False)),
    "input_size": ("a height and a width, given in a configuration as model.size", _is_size),
    "last_stride": ("1 or 2", lambda value: _is_count(value) and value <= 2),
    "mid": ("true or false", lambda value: isinstance(value, bool)),
    "parts": _COUNT,
    "reduced": _COUNT,
    "scale": _COUNT,
}
"""Option -> the values it accepts, in words and as a check."""


def build_architecture(name: str, *, input_size: tuple[int, int] | None = None, **options: Any) -> nn.Module:
    """The named architecture with fresh weights, drawn from torch's global generator, in training mode.

    `input_size` (height, width) in pixels sizes the last layer where that depends on the image; the other
    architectures accept images of any size.

    Raises:
        InputError: an unknown name or option (the nearest known ones are listed), or a value the option rejects.

    Examples:
        >>> network = rtool.converters.build_architecture("osnet_x0_25").eval()
        >>> network(torch.zeros(1, 3, 128, 64)).shape
        torch.Size([1, 512])
    """
    architecture = _architecture(name)
    for option in options:
        if option not in architecture.options:
            raise InputError(f"{name}: unknown option {option!r}; {nearest(option, architecture.options)}")
    if input_size is not None:
        _check_value(architecture, name, "input_size", input_size)
        if "input_size" in architecture.options:
            options["input_size"] = input_size
    for option, value in options.items():
        _check_value(architecture, name, option, value)
    for option in architecture.needed:
        if option not in options:
            way = f"in a configuration, model.options={{{option}: ...}}"
            raise InputError(f"{name}: needs option {option}: {_VALUES[option][0]}; {way}")
    return architecture.build(**architecture.arguments, **options)


def stated_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a bundle states them, without reference to other files: a genotype by its content.

    Raises:
        InputError: a file that an option names does not exist or is of the wrong kind.
    """
    stated = dict(options)
    if isinstance(stated.get("genotype"), str):
        stated["genotype"] = open_genotype(stated["genotype"]).to_json()
    return stated


def _check_value(architecture: Architecture, name: str, option: str, value: object) -> None:
    expected, fits = _VALUES[option]
    parameter = inspect.signature(architecture.build).parameters.get(option)
    without = value is None and parameter is not None and "None" in str(parameter.annotation)
    if not without and not fits(value):
        raise InputError(f"{name}: option {option} takes {expected}, got {value!r}")


def architecture_preprocessing(name: str, *, input_size: tuple[int, int] | None = None) -> Preprocessing:
    """The preprocessing the named architecture expects, with `input_size` (height, width) in pixels when given.

    Raises:
        InputError: an unknown name.
    """
    preprocessing = _architecture(name).preprocessing
    if input_size is None:
        return preprocessing
    return replace(preprocessing, height=input_size[0], width=input_size[1])


def _architecture(name: str) -> Architecture:
    if name not in ZOO:
        raise InputError(f"unknown architecture {name!r}; {nearest(name, ZOO)}")
    return ZOO[name]
