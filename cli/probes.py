"""`--probe NAME=zeros|ones|FILE`: what an input beside the image is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..errors import InputError

if TYPE_CHECKING:
    from ..converters.runtime.probes.given_probes import Probe

__all__ = ["probe_option", "read_probes", "value_option"]

probe_option = click.option(
    "--probe",
    multiple=True,
    metavar="NAME=zeros|ones|FILE",
    help="Measure with this input (FILE: .npy) instead of random numbers; repeatable.",
)

value_option = click.option(
    "--probe",
    multiple=True,
    metavar="NAME=zeros|ones|FILE",
    help="Give an input beside the image this value (FILE: .npy, one row) for every image; repeatable.",
)


def read_probes(texts: tuple[str, ...]) -> dict[str, Probe]:
    """Input name -> probe.

    Raises:
        InputError: a text has no "=", names an input twice, or names a file that is no `.npy`.
    """
    from ..converters.runtime.probes.given_probes import read_probe

    probes: dict[str, Probe] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name:
            raise InputError(f"--probe {text}: expected NAME=zeros, NAME=ones or NAME=FILE.npy")
        if name in probes:
            raise InputError(f"--probe {name}: given twice; give each input once")
        probes[name] = read_probe(name, value)
    return probes
