"""The node cases of every operator at the opsets of its earlier revisions, with ONNX Runtime as the oracle.

The installed onnx has cases for the newest revision of an operator only; real files use all revisions. A case counts at
an earlier opset when its node is valid there and ONNX Runtime runs it. The few cases in which ONNX Runtime departs from
ONNX's definition are left out; at the newest opset they are compared with ONNX's own numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx

from ..operators.onnx_cases import Case

__all__ = ["DEPARTURES", "revision_cases"]

_OLDEST, _NEWEST = 7, 24
"""The range of opsets: before 7 broadcasting was different, after 24 ONNX Runtime has few operators."""

DEPARTURES = {
    "test_maxunpool_export_with_output_shape": "reads the indices in the shape given instead of the inferred one",
    "test_resize_downsample_scales_linear_align_corners": "aligns the corners of the rounded size",
    "test_resize_downsample_scales_cubic_align_corners": "aligns the corners of the rounded size",
}
"""Case -> how ONNX Runtime departs from the definition."""


def revision_cases(cases: Iterable[Case]) -> Iterator[Case]:
    """Each single-node case at the first and last opset of every earlier revision of its operator."""
    revisions = _revisions()
    for case in cases:
        node = case.model.graph.node[0]
        if len(case.model.graph.node) > 1 or node.domain or case.name in DEPARTURES or not case.is_native:
            continue
        for opset in _opsets(revisions[node.op_type], case.opset):
            moved = _at_opset(case, opset)
            if moved is not None:
                yield moved


def _revisions() -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, []).append(schema.since_version)
    return {name: sorted(versions) for name, versions in found.items()}


def _opsets(versions: list[int], current: int) -> list[int]:
    chosen = set()
    for index, version in enumerate(versions):
        last = versions[index + 1] - 1 if index + 1 < len(versions) else current
        chosen |= {max(version, _OLDEST), min(last, _NEWEST)}
    return sorted(opset for opset in chosen if _OLDEST <= opset < current)


def _at_opset(case: Case, opset: int) -> Case | None:
    """The case with ONNX Runtime's outputs at another opset; None when it is not valid or cannot run there."""
    import onnxruntime

    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.opset_import[0].version = opset
    model.ir_version = min(model.ir_version, 10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, case.inputs)
    except (
        Exception
    ):  # each library has its own errors for "not at this opset"; without an oracle, the case does not count
        return None
    # ONNX Runtime's transforms and exponentials are accurate to about 1e-5.
    return Case(f"{case.name}@{opset}", model, case.inputs, [np.asarray(o) for o in outputs], 1e-3, 5e-4)
