"""`--probe NAME=zeros|ones|FILE`: what an input beside the image is measured with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError

if TYPE_CHECKING:
    from ..converters.runtime.probes.given_probes import Probe

__all__ = ["probe_option", "read_probes"]

probe_option = click.option(
    "--probe",
    multiple=True,
    metavar="NAME=zeros|ones|FILE",
    help="Measure with this input (FILE: .npy) instead of random numbers; repeatable.",
)


def read_probes(texts: tuple[str, ...]) -> dict[str, Probe]:
    """Input name -> probe.

    Raises:
        InputError: a text has no "=", names an input twice, or names a file that is no `.npy`.
    """
    probes: dict[str, Probe] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name:
            raise InputError(f"--probe {text}: expected NAME=zeros, NAME=ones or NAME=FILE.npy")
        if name in probes:
            raise InputError(f"--probe {name}: given twice; give each input once")
        probes[name] = _probe(text, value)
    return probes


def _probe(text: str, value: str) -> Probe:
    if value == "zeros" or value == "ones":
        return "zeros" if value == "zeros" else "ones"
    if not Path(value).is_file():
        raise InputError(f"--probe {text}: expected zeros, ones or a .npy file, found no file {value!r}")
    from ..converters.files.array_files import read_arrays

    array = read_arrays(Path(value))
    if isinstance(array, dict):
        raise InputError(f"--probe {text}: expected a .npy file with one array, found a .npz")
    return array
