"""The list of operator families; importing them fills the registry. A new family file is listed here."""

from __future__ import annotations

from importlib import import_module

__all__ = ["FAMILIES", "load"]

FAMILIES = (
    "elementwise.activations",
    "elementwise.arithmetic",
    "elementwise.logic",
    "elementwise.rare_activations",
    "elementwise.types",
    "layers.attention",
    "layers.convolutions",
    "layers.flex_attention",
    "layers.fused",
    "layers.linear",
    "layers.losses",
    "layers.normalisations",
    "layers.padding",
    "layers.pooling",
    "layers.quantisation",
    "layers.recurrent",
    "layers.resizing",
    "layers.sampling",
    "layers.transposed_convolutions",
    "tensors.control_flow",
    "tensors.counting",
    "tensors.indexing",
    "tensors.rearranging",
    "tensors.reductions",
    "tensors.reshaping",
    "tensors.selecting",
    "tensors.sequences",
    "tensors.signals",
)
"""Modules in this folder; each registers the operators of one family."""


def load() -> None:
    """Import every family, once."""
    for family in FAMILIES:
        import_module(f".{family}", __package__)
