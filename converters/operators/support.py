"""Which opsets of an operator convert, and why a node of another one does not.

`rows.py` lists what the lowering registers, so that `rtool ops` and `rtool inspect` answer without loading torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import onnx

from .refusals import why_not

__all__ = ["FUSED_DOMAIN", "OperatorSupport", "plain_domain", "supporting_row"]

FUSED_DOMAIN = "rtool"
"""Domain of the operators that `pattern_fusion` creates; they have no ONNX schema and never appear in files."""


@dataclass(frozen=True)
class OperatorSupport:
    """One operator and the opsets `[since, until)` that convert; `until` is None where the newest one does."""

    operator: str
    since: int
    until: int | None
    seen: int
    """The `since_version` of the newest schema that somebody read."""
    trainable: bool
    """Whether its weights become parameters of a layer."""
    domain: str = ""

    def covers(self, opset: int) -> bool:
        """Whether a model of this opset uses this row."""
        return self.since <= opset and (self.until is None or opset < self.until)


Row = TypeVar("Row", bound=OperatorSupport)


def plain_domain(domain: str) -> str:
    """The domain of a node as the rows write it: ONNX's own is ""."""
    return "" if domain == "ai.onnx" else domain


def supporting_row(rows: Sequence[Row] | None, operator: str, opset: int, domain: str) -> Row | str:
    """The row of `operator` for a model of this opset, or the reason why there is none, as text.

    `rows` are those of the operator, of any opset; None or empty where it has none.
    """
    if not rows:
        return why_not(operator, domain)
    for row in rows:
        if row.covers(opset):
            change = _unread_change(operator, row.seen, opset, domain)
            return change or row
    covered = ", ".join(f"{row.since}+" if row.until is None else f"{row.since}-{row.until - 1}" for row in rows)
    return f"opset {opset} is outside the opsets covered ({covered}); convert the model with onnx.version_converter"


@cache
def _unread_change(operator: str, seen: int, opset: int, domain: str) -> str | None:
    """Why the schema at `opset` may mean something else than the schema that was read; None if it does not."""
    if domain == FUSED_DOMAIN:
        return None
    newest = onnx.defs.onnx_opset_version()
    if domain == "" and opset > newest:
        return f"opset {opset} is newer than the newest known one ({newest}); re-export with an older opset"
    try:
        schema = onnx.defs.get_schema(operator, opset, domain)
        known = onnx.defs.get_schema(operator, seen, domain)
    except onnx.defs.SchemaError:
        return f"opset {opset} has no operator of this name"
    if schema.since_version <= seen or _signature(schema) == _signature(known):
        return None
    return f"version {schema.since_version} changed more than types since {seen}; re-export with an older opset"


def _signature(schema: onnx.defs.OpSchema) -> object:
    attributes = sorted((name, str(a.type), a.required, str(a.default_value)) for name, a in schema.attributes.items())
    return (
        attributes,
        [(value.name, str(value.option)) for value in schema.inputs],
        [(value.name, str(value.option)) for value in schema.outputs],
    )
