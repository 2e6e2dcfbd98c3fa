"""The list of operator families; importing them fills the registry. A new family file is listed here.

`python -m rtool.converters.lowering.families` writes what they register into `operators/rows.py`; a test compares both.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ..operators.support import FUSED_DOMAIN, OperatorSupport
from .registry import REGISTRY

__all__ = ["FAMILIES", "ROWS_FILE", "load", "rows_source"]

ROWS_FILE = Path(__file__).parents[1] / "operators" / "rows.py"

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


def rows_source() -> str:
    """The text of `operators/rows.py`: what every family registers, sorted by domain, operator and opset."""
    load()
    rows = [row for row in REGISTRY.rows() if row.domain != FUSED_DOMAIN]
    lines = [
        '"""Every operator that converts, as plain data; written by `python -m rtool.converters.lowering.families`."""',
        "",
        "from __future__ import annotations",
        "",
        "from .support import OperatorSupport",
        "",
        '__all__ = ["ROWS"]',
        "",
        "ROWS: tuple[OperatorSupport, ...] = (",
        *(f"    OperatorSupport({_arguments(row)})," for row in rows),
        ")",
    ]
    return "\n".join(lines) + "\n"


def _arguments(row: OperatorSupport) -> str:
    values = (row.operator, row.since, row.until, row.seen, row.trainable, row.domain)
    return ", ".join(f'"{value}"' if isinstance(value, str) else repr(value) for value in values)


if __name__ == "__main__":
    ROWS_FILE.write_text(rows_source(), encoding="utf-8")
