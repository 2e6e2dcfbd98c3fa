"""Rounding errors of operators in units in the last place, and the budgets that they are held to."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rtool.benchmarks.operators import rounding
from rtool.benchmarks.operators.budgets import Budget, budget_of
from rtool.benchmarks.operators.example import module_of
from rtool.benchmarks.operators.own_examples import own_examples
from rtool.benchmarks.operators.rounding import REASONS, rounding_errors
from rtool.cli.main import cli
from rtool.errors import InputError


@pytest.fixture
def known(monkeypatch, examples):
    monkeypatch.setattr(rounding, "examples_by_operator", lambda: examples)
    return examples


@pytest.mark.parametrize("most", [2, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_operators_keep_the_budgets_of_webnn_or_have_a_reason(known, monkeypatch, most, seed):
    monkeypatch.setattr(rounding, "examples_by_operator", lambda: {name: found[:most] for name, found in known.items()})
    table = rounding_errors(seed=seed)
    assert table.within >= 0.95 * table.budgeted
    assert table.budgeted > 80
    assert [
        row.operator for row in table.operators if row.within is False and row.reason != REASONS[row.operator]
    ] == []


def test_the_error_of_a_result_is_counted_at_the_exact_one(known, monkeypatch):
    """One unit more at 1.5 is 2**-23, whatever the operator."""
    exact = torch.full((4,), 1.5, dtype=torch.float64)
    off = exact.float() + torch.tensor([0, 1, 3, 0]) * 2.0**-23
    monkeypatch.setattr(rounding, "module_of", lambda example: (lambda: off, {}))
    monkeypatch.setattr(rounding, "double_module_of", lambda example: (lambda: exact, {}))
    (row,) = rounding_errors("Add").operators
    assert (row.ulp, row.absolute) == (3.0, 3 * 2.0**-23)
    assert row.within is False
    assert rounding_errors("Softsign").operators[0].within is True


def test_arithmetic_in_half_precision_is_over_budget(known, monkeypatch):
    def rounded(example):
        module, inputs = module_of(example)
        return (lambda *x: module(*x).half().float()), inputs

    monkeypatch.setattr(rounding, "module_of", rounded)
    assert rounding_errors("Sigmoid").within == 0


@pytest.mark.parametrize(
    ("operator", "name", "budget"),
    [
        ("Conv", "test_basic_conv_with_padding", Budget(2 * 3 * 3 * 1)),
        ("Gemm", "test_gemm_all_attributes", Budget(2 * 4 + 3)),
        ("MatMul", "test_matmul_2d", Budget(2 * 4)),
        ("Softmax", "test_softmax_axis_0", Budget(3 * 3 + 3)),
        ("ReduceMean", "test_reduce_mean_keepdims_example", Budget(2 + 2)),
        ("AveragePool", "test_averagepool_2d_default", Budget(2 * 2 + 2)),
        ("Resize", "test_resize_upsample_sizes_nearest", Budget(0)),
        ("Tanh", "test_tanh", Budget(absolute=1 / 1024)),
        ("ScatterND", "test_scatternd", Budget(0)),
        ("ScatterND", "test_scatternd_add", None),
        ("Acos", "test_acos", None),
    ],
)
def test_budgets_follow_the_formulas_of_webnn(examples, operator, name, budget):
    (example,) = (example for example in examples[operator] if example.name == name)
    assert budget_of(example) == budget


def test_the_command_prints_what_was_measured(monkeypatch):
    found = {example.operator: [example] for example in own_examples()}
    monkeypatch.setattr(rounding, "examples_by_operator", lambda: found)
    result = CliRunner().invoke(cli, ["ops", "--ulp", "--json"], catch_exceptions=False)
    table = json.loads(result.stdout)
    rows = {row["operator"]: row for row in table["operators"]}
    assert rows["Trilu"]["within"] is True
    assert 0 < rows["Scan"]["ulp"] < 10
    assert np.isfinite([row["ulp"] for row in rows.values()]).all()
    text = CliRunner().invoke(cli, ["ops", "--ulp"], catch_exceptions=False).stdout
    assert f"{table['within']} of {table['budgeted']}" in text


def test_an_operator_without_floats_is_refused(known):
    with pytest.raises(InputError, match="And: no example with floats to measure"):
        rounding_errors("And")
