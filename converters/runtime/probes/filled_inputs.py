"""A model of several inputs as a function of images alone: every other input has one value for all images.

What embeds images gives a network nothing else. Inputs that nothing reads get any value; the others get what
`--probe NAME=zeros|ones|FILE` states, and a model with an input that neither covers is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ...records.preprocessing import Preprocessing
from ...records.record import TensorSpec
from ..runners import Runner
from .given_probes import Probe, with_probes
from .open_sizes import closed_sizes, image_index

__all__ = ["ImageRunner", "described", "digest_with_probes", "image_runner"]


class ImageRunner:
    """`runner` with the image as its only input, see `image_runner`; a `Runner` itself."""

    def __init__(self, runner: Runner, image: int, probes: Mapping[str, Probe], preprocessing: Preprocessing) -> None:
        self.name, self.outputs, self.batch = runner.name, runner.outputs, runner.batch
        self.inputs = (runner.inputs[image],)
        self._runner, self._image, self._probes = runner, image, probes
        self._closed = closed_sizes(runner.inputs, preprocessing, probes)
        first = self.inputs[0].shape[0]
        self._follows = [
            not isinstance(spec.shape[0], int) or spec.shape[0] == first if spec.shape else False
            for spec in runner.inputs
        ]
        for spec, follows in zip(runner.inputs, self._follows, strict=True):
            _check_one_value(spec, probes.get(spec.name), follows)
        self._filled(1)

    def run(self, *arrays: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """All outputs for one batch of images.

        Raises:
            InputError: as the model that is run.
        """
        return self._runner.run(*self.all_inputs(arrays[0]))

    def all_inputs(self, images: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        """What `runner` is given for these images, in the order of its inputs."""
        filled = list(self._filled(len(images)))
        filled[self._image] = images
        return tuple(filled)

    def _filled(self, rows: int) -> tuple[NDArray[Any], ...]:
        """Every input for so many images, the image input included, whose value nobody uses."""
        opened = [
            replace(spec, shape=("batch", *spec.shape[1:])) if follows else spec
            for spec, follows in zip(self._closed, self._follows, strict=True)
        ]
        sizes = [[size if isinstance(size, int) else rows for size in spec.shape] for spec in opened]
        values = [np.zeros(size, spec.dtype) for size, spec in zip(sizes, opened, strict=True)]  # of what nothing reads
        return with_probes(opened, values, self._probes)


def image_runner(runner: Runner, preprocessing: Preprocessing, probes: Mapping[str, Probe] | None = None) -> Runner:
    """`runner` as a function of its image input, or itself where it has no other.

    Args:
        runner: Any model.
        preprocessing: Of its images; their size closes open sizes of the other inputs that have the same name.
        probes: The value of each other input by name; an array has one row, the same for every image.

    Raises:
        InputError: an input that is read has no value, no input is known to be the image, or a probe does not fit.
    """
    probes = probes or {}
    if not probes and len(runner.inputs) <= 1:
        return runner
    if not runner.inputs:
        raise InputError(f"{runner.name}: does not state its inputs, so --probe cannot name one; leave it out")
    image = image_index(runner.inputs, probes)
    unread: frozenset[str] = getattr(runner, "unread", frozenset())
    needed = [
        spec.name
        for index, spec in enumerate(runner.inputs)
        if index != image and spec.name not in unread and spec.name not in probes
    ]
    if image is None or needed or runner.inputs[image].name in probes:
        raise InputError(
            f"{runner.name}: needs more than images ({', '.join(needed)}), so it cannot be evaluated on them alone; "
            "evaluate, embed, gallery and bench parity take a value for each: --probe NAME=zeros|ones|FILE.npy"
            if needed
            else f"{runner.name}: no input is left for the images; leave out the --probe of that input"
        )
    return ImageRunner(runner, image, probes, preprocessing)


def described(probes: Mapping[str, Probe]) -> list[str]:
    """A line for people per input that has a value of its own."""
    return [
        f"input {name} is {probe if isinstance(probe, str) else f'the given {probe.dtype} array'} for every image"
        for name, probe in sorted(probes.items())
    ]


def digest_with_probes(digest: str, probes: Mapping[str, Probe]) -> str:
    """What a model computes with: its own digest, and the values of its other inputs."""
    if not probes:
        return digest
    whole = hashlib.sha256(digest.encode())
    for name, probe in sorted(probes.items()):
        whole.update(f"\n{name} ".encode())
        if isinstance(probe, str):
            whole.update(probe.encode())
        else:
            whole.update(f"{probe.dtype} {probe.shape} ".encode() + np.ascontiguousarray(probe).tobytes())
    return whole.hexdigest()


def _check_one_value(spec: TensorSpec, probe: Probe | None, follows: bool) -> None:
    if isinstance(probe, np.ndarray) and follows and probe.ndim and len(probe) != 1:
        raise InputError(
            f"--probe {spec.name}: found {len(probe)} rows, and one value is given to every image; expected one row"
        )
