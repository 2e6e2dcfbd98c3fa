"""The explicit list of operator families; loading them fills the registry."""

from __future__ import annotations

from importlib import import_module

__all__ = ["FAMILIES", "load"]

FAMILIES = (
    "activations",
    "arithmetic",
    "attention",
    "control_flow",
    "convolutions",
    "counting",
    "flex_attention",
    "gates",
    "indexing",
    "lifted",
    "linear",
    "logic",
    "losses",
    "normalisations",
    "padding",
    "pooling",
    "quantisation",
    "rearranging",
    "recurrent",
    "reductions",
    "reshaping",
    "resizing",
    "sampling",
    "selecting",
    "sequences",
    "signals",
    "transposed_convolutions",
    "types",
)
"""Modules of this folder; each registers the operators of one family."""


def load() -> None:
    """Import every family, once."""
    for family in FAMILIES:
        import_module(f".{family}", __package__)
