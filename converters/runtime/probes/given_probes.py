"""Probes that a user gives for single inputs, `--probe NAME=zeros|ones|FILE`: what random numbers cannot stand for.

A mask of random bits or an id beyond its table is not an input that the network was made for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError, nearest
from ...records.image_size import listed
from ...records.record import TensorSpec

__all__ = ["Probe", "read_probe", "with_probes"]

Probe = Literal["zeros", "ones"] | NDArray[Any]
"""The value of one input: filled, or rows of the input's dtype and shape, repeated where a batch needs more."""


def read_probe(name: str, value: str) -> Probe:
    """The probe that `NAME=zeros|ones|FILE` states.

    Raises:
        InputError: `value` is neither word and no `.npy` file.
    """
    if value == "zeros" or value == "ones":
        return "zeros" if value == "zeros" else "ones"
    path = Path(value)
    if "\0" in value or not path.is_file():
        raise InputError(f"--probe {name}={value}: expected zeros, ones or a .npy file, found no file {value!r}")
    from ...files.array_files import read_arrays

    array = read_arrays(path)
    if isinstance(array, dict):
        raise InputError(f"--probe {name}={value}: expected a .npy file with one array, found a .npz")
    return array


def with_probes(
    inputs: Sequence[TensorSpec], arrays: Sequence[NDArray[Any]], probes: Mapping[str, Probe]
) -> tuple[NDArray[Any], ...]:
    """`arrays`, one per input, with those that `probes` names replaced; shapes and dtypes stay.

    Raises:
        InputError: a name is not an input, or a given array has another dtype or shape.
    """
    names = [spec.name for spec in inputs]
    for name in probes:
        if name not in names:
            raise InputError(f"--probe {name}: no such input; {nearest(name, names)}")
    return tuple(
        _probe(spec, array, probes[spec.name]) if spec.name in probes else array
        for spec, array in zip(inputs, arrays, strict=True)
    )


def _probe(spec: TensorSpec, array: NDArray[Any], probe: Probe) -> NDArray[Any]:
    if isinstance(probe, str):
        if probe not in ("zeros", "ones"):
            raise InputError(f"--probe {spec.name}={probe}: expected zeros, ones or a .npy file")
        return np.zeros_like(array) if probe == "zeros" else np.ones_like(array)
    first = spec.shape[0] if spec.shape else None
    is_open = not isinstance(first, int)
    fits = probe.ndim == array.ndim and probe.shape[1:] == array.shape[1:] and probe.dtype == array.dtype
    if not fits or not probe.size or (array.ndim and not is_open and len(probe) != len(array)):
        expected = ("batch", *array.shape[1:]) if array.ndim and is_open else array.shape
        raise InputError(
            f"--probe {spec.name}: found {probe.dtype} {listed(probe.shape) or 'scalar'}, expected {array.dtype} "
            f"{listed(expected) or 'scalar'}"
        )
    return probe[np.arange(len(array)) % len(probe)] if array.ndim else probe
