"""ONNX's own conformance cases: exact or refused by name, never wrong, with weights as inputs and as initializers."""

from collections import Counter

import pytest
import torch

from rtool.benchmarks.conversion.onnx_conformance import run_suite
from rtool.benchmarks.conversion.onnx_revisions import revision_cases
from rtool.benchmarks.operators.onnx_cases import cases_on_disk, node_cases, with_initializers

PER_OPERATOR = 2


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cases():
    return list(node_cases())


@pytest.fixture(scope="module")
def some_cases(cases):
    """The first few cases of every set of operators; expanded functions of a hundred nodes are left to the full run."""
    seen = Counter()
    chosen = []
    for case in cases:
        key = tuple(case.operators)
        seen[key] += 1
        if seen[key] <= PER_OPERATOR and len(case.model.graph.node) < 12:
            chosen.append(case)
    return chosen


def check(outcomes):
    bad = [f"{o.case}: {o.status}: {o.detail}" for o in outcomes if o.status in ("wrong", "crashed")]
    assert not bad, "\n".join(bad)
    nameless = [
        o.case for o in outcomes if o.status == "refused" and "node '" not in o.detail and "input '" not in o.detail
    ]
    assert not nameless


def test_some_cases_of_every_operator_are_exact_or_refused_by_name(some_cases):
    outcomes = run_suite("node", some_cases)
    check(outcomes)
    assert len({o.operators[0] for o in outcomes if len(o.operators) == 1}) > 150
    assert sum(o.status == "passed" for o in outcomes) > 0.85 * len(outcomes)


def test_some_cases_hold_with_their_weights_as_initializers(some_cases):
    converted = [case for case in map(with_initializers, some_cases) if case is not None]
    outcomes = run_suite("node", converted)
    check(outcomes)
    assert sum(o.status == "passed" for o in outcomes) > 0.85 * len(outcomes)


def test_exported_operators_on_disk_all_pass():
    outcomes = run_suite("pytorch-operator", cases_on_disk("pytorch-operator"))
    assert [o.case for o in outcomes if o.status != "passed"] == []
    assert len(outcomes) == 35


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("pytorch-converted", 82), ("light", 9)])
def test_exported_models_on_disk_all_pass(kind, count):
    outcomes = run_suite(kind, cases_on_disk(kind))
    assert [o.case for o in outcomes if o.status != "passed"] == []
    assert len(outcomes) == count


@pytest.mark.slow
def test_all_node_cases_are_exact_or_refused_by_name(cases):
    outcomes = run_suite("node", cases)
    check(outcomes)
    native = {case.name for case in cases if case.is_native}
    passed = {o.case for o in outcomes if o.status == "passed"}
    assert len(passed & native) >= 1594
    assert len(passed) >= 1780


@pytest.mark.slow
def test_all_node_cases_hold_with_their_weights_as_initializers(cases):
    check(run_suite("node", [case for case in map(with_initializers, cases) if case is not None]))


@pytest.mark.slow
def test_earlier_revisions_of_operators_agree_with_onnxruntime(cases):
    outcomes = run_suite("revisions", revision_cases(cases))
    check(outcomes)
    assert sum(o.status == "passed" for o in outcomes) > 2000
