"""The one place that decides which preprocessing a model gets.

1. What the model states is right: the metadata of a file, `bundle.json`, a server's configuration.
2. Otherwise a graph that normalises pixels itself gets pixels: of 0..255 as they are, or divided by 255.
3. Otherwise a known architecture, or a size that only one task has, tells what is usual, with the reason.
4. Otherwise nothing is guessed: whoever needs it asks for it (`PreprocessingUnknownError`).

A request (`requests.py`) overrides 1 and 3, entirely or in part. It never overrides 2: the images would be normalised
twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from ...errors import InputError
from ..records.input_scaling import InputScaling
from ..records.preprocessing import ARCFACE, IMAGENET, Preprocessing
from ..zoo.facts import FACTS
from .evidence import PreprocessingEvidence
from .requests import WAYS, PreprocessingRequest, read_request

__all__ = [
    "IN_GRAPH",
    "PreprocessingDecision",
    "PreprocessingUnknownError",
    "decide_preprocessing",
    "known_preprocessing",
]

_LARGEST_FACE = 160
"""Pixels; networks of aligned faces take squares of 96 (OpenFace) to 160 (FaceNet), those of objects larger ones."""

IN_GRAPH = "in the graph, which takes uint8 pixels"
"""The reason for feeding pixels to a graph that holds its preprocessing."""

SourceKind = Literal["given", "stated", "graph", "architecture", "size"]


@dataclass(frozen=True)
class PreprocessingDecision:
    """A preprocessing, where it comes from, and the reason in words."""

    preprocessing: Preprocessing
    reason: str
    kind: SourceKind

    def __str__(self) -> str:
        """One line for a table or a log."""
        return f"{self.preprocessing} ({self.reason})"


class PreprocessingUnknownError(InputError):
    """Nothing tells the preprocessing or the size of the images; the message says what to state."""


@dataclass(frozen=True)
class _Numbers:
    """Mean, deviation and order before the size is known."""

    like: Preprocessing
    reason: str
    kind: SourceKind


def decide_preprocessing(
    evidence: PreprocessingEvidence,
    request: str | Preprocessing | PreprocessingRequest | None = None,
    size: tuple[int, int] | None = None,
) -> PreprocessingDecision:
    """The preprocessing of a model.

    Args:
        evidence: what the model shows.
        request: what the user says, see `read_request`.
        size: height and width in pixels that the user says elsewhere.

    Raises:
        PreprocessingUnknownError: nothing tells it.
        InputError: the request cannot be had: another size than the model's, other channels, or a normalisation of
            images that the graph normalises itself.
    """
    asked = read_request(request)
    if asked is not None and asked.normalises:
        _refuse_twice(evidence, asked)
    height, width = _size(evidence, asked, size)
    known = _known(evidence, (height, width), asked)
    order = _order(evidence, asked, known.like)
    channels = 1 if order == "grey" else 3
    mean, std = known.like.mean, known.like.std
    if asked is not None and asked.normalises:
        mean, std = asked.numbers("mean", channels), asked.numbers("std", channels)
    elif len(set(mean)) == len(set(std)) == 1:
        mean, std = mean[:1] * channels, std[:1] * channels
    if len(mean) != channels:
        raise InputError(
            f"{evidence.label}: takes images of {channels} channels, and its preprocessing has mean {list(mean)}; "
            f"state it: {_ways()}"
        )
    interpolation = known.like.interpolation if asked is None else asked.values.get("interpolation", "")
    made = Preprocessing(
        height, width, mean, std, order, interpolation or known.like.interpolation, _layout(evidence, asked, known.like)
    )
    return PreprocessingDecision(made, known.reason, known.kind)


def known_preprocessing(
    evidence: PreprocessingEvidence, request: str | Preprocessing | None = None
) -> PreprocessingDecision | str:
    """The decision, or why there is none, for whoever can do without it.

    Raises:
        InputError: as `decide_preprocessing`, except where nothing tells the preprocessing.
    """
    try:
        return decide_preprocessing(evidence, request)
    except PreprocessingUnknownError as error:
        return str(error).removeprefix(f"{evidence.label}: ")


def _known(evidence: PreprocessingEvidence, size: tuple[int, int], asked: PreprocessingRequest | None) -> _Numbers:
    """Rules 1 to 4, and what the user said before them."""
    base = _without_request(evidence, size)
    if asked is None:
        return base if isinstance(base, _Numbers) else _ask(evidence, base)
    if isinstance(base, _Numbers):
        if asked.normalises and base.kind != "graph":
            return replace(base, reason=f"given: {asked.words}", kind="given")
        return replace(base, reason=f"{base.reason}; given: {asked.words}")
    if not asked.normalises:
        _ask(evidence, base)
    return _Numbers(Preprocessing(*size), f"given: {asked.words}", "given")


def _without_request(evidence: PreprocessingEvidence, size: tuple[int, int]) -> _Numbers | str:
    if evidence.stated is not None:
        return _Numbers(evidence.stated, evidence.stated_in, "stated")
    if evidence.takes_bytes:
        return _Numbers(Preprocessing(*size, (0.0,) * 3, (1.0,) * 3), IN_GRAPH, "graph")
    if evidence.scaling is not None:
        return _Numbers(_pixels(evidence.scaling), _graph_reason(evidence.scaling), "graph")
    return _usual(evidence, size)


def _pixels(scaling: InputScaling) -> Preprocessing:
    """What remains outside a graph that normalises: pixels of its range, in the order that its means tell."""
    channels = len(scaling.mean)
    means = [value * 255 / scaling.range for value in scaling.mean]
    bgr = channels == 3 and all(
        math.isclose(value, usual, abs_tol=2) for value, usual in zip(means, IMAGENET.mean[::-1], strict=True)
    )
    order: Literal["rgb", "bgr", "grey"] = "bgr" if bgr else "rgb" if channels == 3 else "grey"
    return Preprocessing(1, 1, (0.0,) * channels, (255.0 / scaling.range,) * channels, order)


def _graph_reason(scaling: InputScaling) -> str:
    pixels = "raw pixels" if scaling.range == 255 else "pixels of 0 to 1, so they are divided by 255,"
    return f"the graph normalises {pixels} itself: {scaling}"


def _usual(evidence: PreprocessingEvidence, size: tuple[int, int]) -> _Numbers | str:
    """Rule 3: by the architecture, unless the size speaks against it; else by a size that only one task has."""
    height, width = size
    if evidence.served:
        return (
            "a server does not show the graph; deploy it again with this rtool, which writes what the file states or "
            "its graph shows into config.pbtxt"
        )
    if evidence.channels not in (None, 3):
        return f"networks of {evidence.channels} channel have no usual one"
    face, person = height == width <= _LARGEST_FACE, width > 0 and 2 <= height / width <= 3
    name = evidence.architecture
    task = None if name is None else _task(name)
    if task is not None and not (
        (task is IMAGENET and height == width == ARCFACE.height) or (task is ARCFACE and person)
    ):
        usual = "ArcFace" if task is ARCFACE else "ImageNet"
        return _Numbers(
            task, f"guessed from the architecture {name} at {height}x{width}: {usual}'s numbers", "architecture"
        )
    if task is not None:
        return f"the architecture looks like {name}, and {height}x{width} is not its size"
    if face:
        reason = f"guessed from the size: {height}x{width} is an aligned face, with ArcFace's numbers"
        return _Numbers(ARCFACE, reason, "size")
    if person:
        reason = f"guessed from the size: {height}x{width} is a person crop, with ImageNet's numbers"
        return _Numbers(IMAGENET, reason, "size")
    return f"neither the architecture ({name or 'unknown'}) nor the size {height}x{width} tells it"


def _task(name: str) -> Preprocessing | None:
    """What networks of an architecture usually get: ARCFACE, IMAGENET or None."""
    if name in FACTS:
        return ARCFACE if FACTS[name].preprocessing.mean == ARCFACE.mean else IMAGENET
    return IMAGENET if name == "osnet" else None


def _size(
    evidence: PreprocessingEvidence, asked: PreprocessingRequest | None, size: tuple[int, int] | None
) -> tuple[int, int]:
    said = asked.values.get("size") if asked is not None else None
    if said is not None and size is not None and said != size:
        raise InputError(
            f"{evidence.label}: size {size[0]}x{size[1]} was given, and {said[0]}x{said[1]} with the preprocessing; "
            "give it once"
        )
    wanted = size or said
    fixed = evidence.size
    if wanted is not None:
        for want, has in zip(wanted, fixed, strict=True):
            if has is not None and want != has:
                shown = "x".join("?" if value is None else str(value) for value in fixed)
                raise InputError(
                    f"{evidence.label}: has a fixed input of {shown}, got size {wanted[0]}x{wanted[1]}; "
                    "leave the size out"
                )
        return wanted
    stated = (None, None) if evidence.stated is None else (evidence.stated.height, evidence.stated.width)
    height, width = fixed[0] or stated[0], fixed[1] or stated[1]
    if height is None or width is None:
        reason = evidence.no_image or "does not state the size of its images"
        raise PreprocessingUnknownError(
            f"{evidence.label}: {reason}; give one, such as --size 256x128, --preprocessing imagenet,size=256x128, or "
            "model.size=[256, 128] in a configuration"
        )
    return height, width


def _order(
    evidence: PreprocessingEvidence, asked: PreprocessingRequest | None, known: Preprocessing
) -> Literal["rgb", "bgr", "grey"]:
    said = asked.values.get("order") if asked is not None else None
    order: Literal["rgb", "bgr", "grey"] = said or known.channel_order
    if evidence.channels is None:
        return order
    if said is not None and (said == "grey") != (evidence.channels == 1):
        raise InputError(
            f"{evidence.label}: takes images of {evidence.channels} channel{'s' * (evidence.channels > 1)}, got "
            f"order {said}; leave the order out"
        )
    if evidence.channels == 1:
        return "grey"
    return "rgb" if order == "grey" else order


def _layout(
    evidence: PreprocessingEvidence, asked: PreprocessingRequest | None, known: Preprocessing
) -> Literal["nchw", "nhwc"]:
    said: Literal["nchw", "nhwc"] | None = asked.values.get("layout") if asked is not None else None
    if evidence.layout is not None and said is not None and said != evidence.layout:
        raise InputError(f"{evidence.label}: its input is {evidence.layout}, got layout {said}; leave the layout out")
    return evidence.layout or said or known.layout


def _refuse_twice(evidence: PreprocessingEvidence, asked: PreprocessingRequest) -> None:
    """Refuse a normalisation outside a graph that has one, unless it is what the graph expects.

    Raises:
        InputError: the images would be normalised twice.
    """
    scaling = None if evidence.takes_bytes else evidence.scaling
    if scaling is None and not evidence.takes_bytes:
        return
    std = 1.0 if scaling is None else _pixels(scaling).std[0]
    if set(asked.values["mean"]) == {0.0} and set(asked.values["std"]) == {std}:
        return
    reason = f"its preprocessing is {IN_GRAPH}" if scaling is None else _graph_reason(scaling)
    raise InputError(
        f"{evidence.label}: {reason}; preprocessing {asked.words} would normalise twice; leave it out, or say "
        f"mean=0,std={std:g} with order=bgr, size or interpolation as needed"
    )


def _ask(evidence: PreprocessingEvidence, why: str) -> _Numbers:
    raise PreprocessingUnknownError(
        f"{evidence.label}: its preprocessing is not stated, its graph holds none, and {why}; state it: {_ways()}"
    )


def _ways() -> str:
    return f"--preprocessing {WAYS} (in a configuration: model.preprocessing)"
