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
4. `python -m rtool.converters.lowering.families` writes the operator into operators/rows.py, which `rtool ops` prints.
5. Add cases to tests/converters/lowering/test_operators.py, which compares with ONNX Runtime;
   test_onnx_backend.py runs ONNX's own cases for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..operators.support import OperatorSupport, supporting_row

if TYPE_CHECKING:
    from .operation import Lowered, Op

__all__ = ["REGISTRY", "Lowering", "Registry", "lowers"]

LowerFunction = Callable[["Op"], "Lowered"]


@dataclass(frozen=True, kw_only=True)
class Lowering(OperatorSupport):
    """One row of the registry: an operator, its opsets, and the function that lowers it."""

    function: LowerFunction


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
        return supporting_row(self._rows.get((domain, operator)), operator, opset, domain)

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
        REGISTRY.add(Lowering(operator, since, until, seen, trainable, domain, function=function))
        return function

    return register
