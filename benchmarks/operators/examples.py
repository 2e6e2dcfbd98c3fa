"""Examples of every operator that can be converted: ONNX's own node cases, and graphs for what has none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from onnx import TensorProto

from ...converters.lowering import families
from ...converters.lowering.registry import REGISTRY
from .example import Example, retyped, with_weights
from .onnx_cases import Case, node_cases
from .own_examples import own_examples

__all__ = ["examples_by_operator"]

_LARGEST = 20_000
"""Elements of all inputs of an example; larger cases say nothing more."""


def examples_by_operator(cases: Iterable[Case] | None = None) -> dict[str, list[Example]]:
    """Examples by operator, smallest inputs first; of node cases those with one node and one type of float.

    Of operators whose weights are trained each example counts twice: with weights as inputs and as initializers.
    """
    found: dict[str, list[Example]] = {}
    of_cases = (_of_case(case) for case in (_seeded_cases() if cases is None else cases))
    families.load()
    trained = {row.operator for row in REGISTRY.rows() if row.trainable}
    for example in (*own_examples(), *of_cases):
        if example is None or _size(example) > _LARGEST:
            continue
        weighted = with_weights(example) if example.operator in trained else None
        found.setdefault(example.operator, []).extend([example] if weighted is None else [example, weighted])
    return {operator: sorted(examples, key=_size) for operator, examples in sorted(found.items())}


def _seeded_cases() -> list[Case]:
    """ONNX's generators draw from NumPy's global generator, which keeps its state here."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        return list(node_cases())
    finally:
        np.random.set_state(state)


def _size(example: Example) -> int:
    return sum(array.size for array in example.inputs.values())


def _of_case(case: Case) -> Example | None:
    """A case as an example in float32; None where it reads no float, or other floats."""
    if len(case.model.graph.node) != 1 or not case.inputs:
        return None
    example = Example(case.model.graph.node[0].op_type, case.name, case.model, case.inputs)
    read, given = (
        {value.type.tensor_type.elem_type for value in values}
        for values in (case.model.graph.input, case.model.graph.output)
    )
    floats = {dtype for dtype in read | given if ir.DataType(dtype).is_floating_point()}
    if not floats & read:
        return None
    if floats == {TensorProto.DOUBLE}:
        return retyped(example, TensorProto.DOUBLE, TensorProto.FLOAT)
    return example if floats == {TensorProto.FLOAT} else None
