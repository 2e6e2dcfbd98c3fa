"""Outputs that no comparison may pass, whatever they are compared with: the rule that every gate asks.

1. A value that is NaN or infinite. NaN agrees with NaN, so a broken model would agree with itself.
2. An output that is the same to the last bit for `IMAGES` different inputs. A served model whose weights were lost
   gives one embedding to everybody, and agrees with its file.

An output that no input reaches, or of one number per row beside others that differ, may be the same: a table of
anchors, a count; but not all outputs of a model. Where the inputs that were measured have the same output, `IMAGES`
random ones decide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..records.record import TensorSpec
from .probes.probing import probe_inputs

__all__ = ["IMAGES", "find_nonsense", "not_finite", "unreached_outputs"]

Arrays = Sequence[NDArray[Any]]

IMAGES = 8
"""Different inputs that an output must tell apart; two may agree by saturation, eight do not."""
_SHOWN = 3
"""Positions of values that are not finite in a message."""
_SIZE_ONLY = frozenset({"Shape", "Size"})
"""Operators whose result does not depend on the values of their input."""


def not_finite(arrays: Arrays, names: Sequence[str]) -> tuple[str, ...]:
    """One sentence per array with values that are NaN or infinite: how many of each, and where the first ones are."""
    said = []
    for index, array in enumerate(arrays):
        values = np.asarray(array)
        if values.dtype.kind not in "fc" or np.isfinite(values).all():
            continue
        nan, bad = np.isnan(values), ~np.isfinite(values)
        kinds = [
            f"{count} {kind}"
            for count, kind in ((int(nan.sum()), "NaN"), (int((bad & ~nan).sum()), "infinite"))
            if count
        ]
        first = ", ".join(str([int(axis) for axis in place]) for place in np.argwhere(bad)[:_SHOWN])
        more = ", ..." if int(bad.sum()) > _SHOWN else ""
        said.append(f"{_name(names, index)}: {' and '.join(kinds)} of {values.size} values, at {first}{more}")
    return tuple(said)


def find_nonsense(
    run: Callable[..., Arrays],
    inputs: Arrays,
    outputs: Arrays,
    names: Sequence[str],
    *,
    constant: Collection[str] = (),
    per_image: Sequence[bool] = (),
) -> tuple[str, ...]:
    """What is wrong with `outputs` [N, ...], which a model gave for `inputs` [N, ...]; empty where nothing is.

    Args:
        run: Gives the outputs for `IMAGES` rows of every input, in the order of `outputs`. It is called only where
            the given rows do not tell outputs apart.
        inputs: The inputs, with one row per image; others are passed to `run` as they are.
        outputs: What the model gave for them.
        names: Of the outputs.
        constant: Names of outputs that may be the same for every input.
        per_image: Whether each input has one row per image; by default those with as many rows as the first.

    Raises:
        InputError: the model cannot be run on `IMAGES` random rows.
    """
    found = not_finite(outputs, names)
    if found or not _indistinct(inputs, outputs, names, constant):
        return found
    probes = _random_rows(inputs, per_image)
    if all(_alike(array) for array in probes):  # inputs without values, such as no axis at all
        return ()
    answers = run(*probes)
    alike = _indistinct(probes, answers, names, constant)
    said = tuple(f"{name}: the same to the last bit for {IMAGES} different inputs" for name in alike)
    return not_finite(answers, names) or said


def _indistinct(inputs: Arrays, outputs: Arrays, names: Sequence[str], constant: Collection[str]) -> list[str]:
    """Outputs with one row per row of the inputs, which are all the same; a single row is."""
    rows = _rows(inputs)
    with_rows = [
        (index, np.asarray(output))
        for index, output in enumerate(outputs)
        if output.ndim and output.size and len(output) == rows
    ]
    reached = [(index, output) for index, output in with_rows if _name(names, index) not in constant]
    judged = reached or with_rows
    alike = [(index, output) for index, output in judged if _alike(output)]
    all_alike = len(alike) == len(judged)
    return [
        _name(names, index)
        for index, output in alike
        if (output.dtype.kind == "f" and (all_alike or output[0].size > 1)) or (all_alike and output[0].size > 1)
    ]


def _alike(array: NDArray[Any]) -> bool:
    first = array[:1].tobytes()
    return all(array[index : index + 1].tobytes() == first for index in range(1, len(array)))


def _rows(arrays: Arrays) -> int:
    return next((len(array) for array in arrays if array.ndim), 0)


def _random_rows(inputs: Arrays, per_image: Sequence[bool]) -> list[NDArray[Any]]:
    """`IMAGES` random rows for every input with one row per image; the others as they are."""
    rows = _rows(inputs)
    specs = [
        TensorSpec(str(index), str(array.dtype), ("batch", *array.shape[1:]))
        for index, array in enumerate(inputs)
        if array.ndim and (per_image[index] if per_image else len(array) == rows)
    ]
    probes = dict(zip((spec.name for spec in specs), probe_inputs(specs, IMAGES), strict=True))
    return [probes.get(str(index), array) for index, array in enumerate(inputs)]


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else f"output {index}"


def unreached_outputs(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of the outputs that depend on no input, or only on the sizes of one."""
    weights = {entry.name for entry in graph.initializer}
    reached = {value.name for value in graph.input} - weights
    for node in graph.node:  # sorted topologically, as ONNX prescribes
        if node.op_type in _SIZE_ONLY and node.domain in ("", "ai.onnx"):
            continue
        if reached & _read_by(node):
            reached |= set(node.output)
    return frozenset(value.name for value in graph.output) - reached


def _read_by(node: onnx.NodeProto) -> set[str]:
    """The values that a node reads, those that its branches and bodies take from outside included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                names |= _read_by(inner)
            names |= {value.name for value in graph.output}
    return names
