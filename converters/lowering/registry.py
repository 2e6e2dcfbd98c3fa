"""The registry of operators that can be lowered, and the decorator that fills it. How to add an operator:

1. Choose the family file: elementwise/ for functions of single elements, layers/ for what torch has a layer for,
   tensors/ for moving, choosing, counting and control flow. A new file must be listed in `families.py`.
2. Write a function there, with the decorator `lowers`, for example in elementwise/activations.py:

       @lowers("HardSwish", since=14, seen=22)
       def hard_swish(op: Op) -> Lowered:
           return op.call(F.hardswish, op.x(0))

   - `since` is the first opset whose meaning the function implements, `until` the first one whose meaning it does not
     (None: still valid). An operator whose meaning changed gets one function per range of opsets, or one function that
     reads `op.opset`.
   - `seen` is the `since_version` of the newest schema that the author read. A later version that differs only in
     allowed dtypes is accepted; any other change is refused until somebody has read it and raised `seen`.
   - `trainable=True` marks operators whose weights become parameters.
   - The function receives one node as an `Op` (see `operation.py`) and returns its outputs. Nothing is approximated:
     for what it cannot do exactly, it raises `op.refuse("what is not supported; what to do")`.
3. Where torch has no exact equivalent, write one in exact/; it may import only torch, as generated code contains it.
4. Add cases to tests/converters/lowering/test_operators.py, which compares with ONNX Runtime. `rtool ops` lists the
   operator, and test_onnx_backend.py runs ONNX's own cases for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import onnx

from .refusals import why_not

if TYPE_CHECKING:
    from .operation import Lowered, Op

__all__ = ["FUSED_DOMAIN", "REGISTRY", "Lowering", "Registry", "lowers"]

FUSED_DOMAIN = "rtool"
"""Domain of the operators that `pattern_fusion` creates; they have no ONNX schema and never appear in files."""

LowerFunction = Callable[["Op"], "Lowered"]


@dataclass(frozen=True)
class Lowering:
    """One row of the registry: an operator, the opsets `[since, until)`, and the function that lowers it."""

    operator: str
    since: int
    until: int | None
    seen: int
    trainable: bool
    function: LowerFunction
    domain: str = ""

    def covers(self, opset: int) -> bool:
        """Whether a model of this opset uses this row."""
        return self.since <= opset and (self.until is None or opset < self.until)


class Registry:
    """Rows by (domain, operator); the opset ranges of one operator never overlap."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[Lowering]] = {}

    def add(self, row: Lowering) -> None:
        """Add a row.

        Raises:
            ValueError: its range overlaps that of another row (a programming error).
        """
        rows = self._rows.setdefault((row.domain, row.operator), [])
        for other in rows:
            first, second = sorted((row, other), key=lambda entry: entry.since)
            if first.until is None or first.until > second.since:
                raise ValueError(
                    f"{row.operator}: opsets from {row.since} of {row.function.__module__} overlap those from "
                    f"{other.since} of {other.function.__module__}"
                )
        rows.append(row)
        rows.sort(key=lambda entry: entry.since)

    def find(self, operator: str, opset: int, domain: str = "") -> Lowering | str:
        """The row for an operator in a model of this opset, or the reason why there is none, as text."""
        rows = self._rows.get((domain, operator))
        if not rows:
            return why_not(operator, domain)
        for row in rows:
            if row.covers(opset):
                change = _unread_change(operator, row.seen, opset, domain)
                return change or row
        covered = ", ".join(_range_text(row) for row in rows)
        return f"opset {opset} is outside the opsets covered ({covered}); convert the model with onnx.version_converter"

    def rows(self) -> Iterable[Lowering]:
        """Every row, sorted by domain, operator and opset."""
        return (row for key in sorted(self._rows) for row in self._rows[key])


REGISTRY = Registry()


def lowers(
    operator: str,
    *,
    since: int = 1,
    seen: int,
    until: int | None = None,
    trainable: bool = False,
    domain: str = "",
) -> Callable[[LowerFunction], LowerFunction]:
    """Register the decorated function for `operator` in opsets `[since, until)`; see the module. May be stacked."""

    def register(function: LowerFunction) -> LowerFunction:
        REGISTRY.add(Lowering(operator, since, until, seen, trainable, function, domain))
        return function

    return register


def _range_text(row: Lowering) -> str:
    return f"{row.since}+" if row.until is None else f"{row.since}-{row.until - 1}"


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
