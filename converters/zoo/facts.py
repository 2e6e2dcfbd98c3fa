"""What is known of each architecture of the zoo without building it: sizes, costs, layers, preprocessing.

A test builds each one and compares; nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import InputError, nearest
from ..records.preprocessing import ARCFACE, IMAGENET, Preprocessing

__all__ = ["FACTS", "NEED_OPTIONS", "ZooFacts", "check_reference", "nothing_named"]


@dataclass(frozen=True)
class ZooFacts:
    """An architecture as `build_architecture` makes it without options."""

    parameters: int
    buffers: int
    """Running means and variances."""
    macs: int
    """Multiply-accumulates of one image of the size in `preprocessing`."""
    embedding: int
    """Numbers per image that it returns."""
    layers: Mapping[str, int]
    """Layers by class, the most frequent first."""
    preprocessing: Preprocessing = IMAGENET


_ARCFACE_BGR = replace(ARCFACE, channel_order="bgr")

FACTS: Mapping[str, ZooFacts] = {
    "osnet_x0_25": ZooFacts(
        201_864,
        6_528,
        82_314_880,
        512,
        {
            "Conv2d": 151,
            "ReLU": 83,
            "BatchNorm2d": 79,
            "Identity": 9,
            "AdaptiveAvgPool2d": 7,
            "Sigmoid": 6,
            "AvgPool2d": 2,
            "MaxPool2d": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
    ),
    "osnet_x0_5": ZooFacts(
        630_034,
        12_032,
        272_899_328,
        512,
        {
            "Conv2d": 151,
            "ReLU": 83,
            "BatchNorm2d": 79,
            "Identity": 9,
            "AdaptiveAvgPool2d": 7,
            "Sigmoid": 6,
            "AvgPool2d": 2,
            "MaxPool2d": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
    ),
    "osnet_x0_75": ZooFacts(
        1_285_754,
        17_536,
        571_752_192,
        512,
        {
            "Conv2d": 151,
            "ReLU": 83,
            "BatchNorm2d": 79,
            "Identity": 9,
            "AdaptiveAvgPool2d": 7,
            "Sigmoid": 6,
            "AvgPool2d": 2,
            "MaxPool2d": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
    ),
    "osnet_x1_0": ZooFacts(
        2_169_508,
        23_040,
        978_875_392,
        512,
        {
            "Conv2d": 151,
            "ReLU": 83,
            "BatchNorm2d": 79,
            "Identity": 9,
            "AdaptiveAvgPool2d": 7,
            "Sigmoid": 6,
            "AvgPool2d": 2,
            "MaxPool2d": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
    ),
    "resnet50": ZooFacts(
        24_558_144,
        54_144,
        4_054_319_104,
        512,
        {
            "Conv2d": 53,
            "BatchNorm2d": 53,
            "ReLU": 18,
            "MaxPool2d": 1,
            "AdaptiveAvgPool2d": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
    ),
    "resnet50_ibn_a": ZooFacts(
        24_558_144,
        51_904,
        4_054_319_104,
        512,
        {
            "Conv2d": 53,
            "BatchNorm2d": 53,
            "ReLU": 18,
            "InstanceNorm2d": 13,
            "MaxPool2d": 1,
            "AdaptiveAvgPool2d": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
    ),
    "pcb": ZooFacts(
        24_032_832,
        53_632,
        6_083_051_520,
        1536,
        {
            "Conv2d": 54,
            "BatchNorm2d": 54,
            "ReLU": 18,
            "AdaptiveAvgPool2d": 2,
            "MaxPool2d": 1,
            "Identity": 1,
            "Dropout": 1,
        },
        replace(IMAGENET, height=384),
    ),
    "iresnet18": ZooFacts(
        24_025_600,
        14_720,
        2_609_954_816,
        512,
        {"BatchNorm2d": 30, "Conv2d": 21, "PReLU": 9, "Dropout": 1, "Linear": 1, "BatchNorm1d": 1},
        ARCFACE,
    ),
    "iresnet34": ZooFacts(
        34_139_328,
        25_856,
        4_459_642_880,
        512,
        {"BatchNorm2d": 54, "Conv2d": 37, "PReLU": 17, "Dropout": 1, "Linear": 1, "BatchNorm1d": 1},
        ARCFACE,
    ),
    "iresnet50": ZooFacts(
        43_590_848,
        38_144,
        6_309_330_944,
        512,
        {"BatchNorm2d": 78, "Conv2d": 53, "PReLU": 25, "Dropout": 1, "Linear": 1, "BatchNorm1d": 1},
        ARCFACE,
    ),
    "iresnet100": ZooFacts(
        65_156_160,
        69_632,
        12_089_606_144,
        512,
        {"BatchNorm2d": 153, "Conv2d": 103, "PReLU": 50, "Dropout": 1, "Linear": 1, "BatchNorm1d": 1},
        ARCFACE,
    ),
    "iresnet200": ZooFacts(
        118_833_920,
        136_064,
        23_418_945_536,
        512,
        {"BatchNorm2d": 300, "Conv2d": 201, "PReLU": 99, "Dropout": 1, "Linear": 1, "BatchNorm1d": 1},
        ARCFACE,
    ),
    "ir18_adaface": ZooFacts(
        24_020_352,
        14_592,
        2_597_109_760,
        512,
        {
            "BatchNorm2d": 29,
            "Conv2d": 20,
            "PReLU": 9,
            "MaxPool2d": 5,
            "Dropout": 1,
            "Flatten": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
        _ARCFACE_BGR,
    ),
    "ir34_adaface": ZooFacts(
        34_134_080,
        25_728,
        4_446_797_824,
        512,
        {
            "BatchNorm2d": 53,
            "Conv2d": 36,
            "PReLU": 17,
            "MaxPool2d": 13,
            "Dropout": 1,
            "Flatten": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
        _ARCFACE_BGR,
    ),
    "ir50_adaface": ZooFacts(
        43_585_600,
        38_016,
        6_296_485_888,
        512,
        {
            "BatchNorm2d": 77,
            "Conv2d": 52,
            "PReLU": 25,
            "MaxPool2d": 21,
            "Dropout": 1,
            "Flatten": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
        _ARCFACE_BGR,
    ),
    "ir101_adaface": ZooFacts(
        65_150_912,
        69_504,
        12_076_761_088,
        512,
        {
            "BatchNorm2d": 152,
            "Conv2d": 102,
            "PReLU": 50,
            "MaxPool2d": 46,
            "Dropout": 1,
            "Flatten": 1,
            "Linear": 1,
            "BatchNorm1d": 1,
        },
        _ARCFACE_BGR,
    ),
    "mobilefacenet": ZooFacts(
        2_059_520,
        23_808,
        437_520_896,
        512,
        {"Conv2d": 49, "BatchNorm2d": 49, "PReLU": 33, "Flatten": 1, "Linear": 1, "BatchNorm1d": 1},
        ARCFACE,
    ),
    "vit_tiny": ZooFacts(
        19_137_536,
        1_792,
        1_504_882_688,
        512,
        {"Linear": 50, "LayerNorm": 25, "ReLU6": 12, "BatchNorm1d": 2, "Conv2d": 1},
        ARCFACE,
    ),
}

NEED_OPTIONS = ("searched",)
"""Architectures that cannot be built without options, so have no facts of their own."""


def nothing_named(reference: str) -> InputError:
    """The error for a reference that is neither a path nor a name of the zoo."""
    hint = nearest(reference, (*FACTS, *NEED_OPTIONS))
    return InputError(f"{reference}: no such file or folder, and no architecture of that name; {hint}")


def check_reference(reference: str | Path) -> None:
    """Check that something of this name exists, before anything heavy is loaded to open it.

    Raises:
        InputError: it is neither a path nor a name of the zoo.
    """
    if str(reference) not in (*FACTS, *NEED_OPTIONS) and not Path(reference).exists():
        raise nothing_named(str(reference))
