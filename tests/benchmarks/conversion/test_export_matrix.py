"""The export matrix distinguishes right conversions from wrong ones, and merges rows of several calls."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from rtool.benchmarks.conversion import export_matrix, matrix_cells, module_uses
from rtool.benchmarks.conversion.matrix_cells import Cell, Row, Subject, measure_cell
from rtool.benchmarks.conversion.module_uses import try_uses
from rtool.converters import onnx_to_torch


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)]
    module = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Subject("small", module, torch.randn(16, 3, 8, 8))


@pytest.mark.parametrize("exporter", ["torchscript-11", "dynamo-20"])
@pytest.mark.parametrize("batch", [0, 1])
def test_a_right_conversion_holds(subject, exporter, batch):
    row, _ = measure_cell(subject, Cell("small", exporter, batch, fused=False), training=batch == 0)
    assert row.misses == []
    assert row.batchnorms == 1
    assert set(row.errors) == ({"1", "2", "3", "16"} if batch == 0 else {"1"})
    assert row.names_equal
    assert row.gradients.relative <= 1e-4
    assert set(row.training) == ({"outputs", "statistics", "gradients"} if batch == 0 else set())
    fused, _ = measure_cell(subject, Cell("small", exporter, batch, fused=True))
    assert fused.misses == []
    assert fused.batchnorms == 0


def one_per_cent_more_gradient(_module, _inputs, output):
    return output + 0.01 * (output - output.detach())


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda module: module.get_parameter("4.weight").mul_(1.001), "error"),
        (lambda module: setattr(module.get_submodule("1"), "momentum", 0.2), "training: statistics"),
        (lambda module: module.get_submodule("0").register_forward_hook(one_per_cent_more_gradient), "gradients of 0."),
    ],
)
def test_a_wrong_conversion_is_missed(subject, monkeypatch, damage, said):
    def damaged(model):
        module = onnx_to_torch(model)
        with torch.no_grad():
            damage(module)
        return module

    monkeypatch.setattr(matrix_cells, "onnx_to_torch", damaged)
    row, _ = measure_cell(subject, Cell("small", "torchscript-17", 0, fused=False), training=True)
    assert any(miss.startswith(said) for miss in row.misses)


def test_every_use_works_on_a_dynamic_batch(subject):
    _, model = measure_cell(subject, Cell("small", "torchscript-17", 0, fused=True))
    found = try_uses(onnx_to_torch(model), subject.images)
    assert found.keys() == export_matrix.USE_BOUNDS.keys()
    for name, value in found.items():
        assert value <= export_matrix.USE_BOUNDS[name], name


def test_a_use_that_fails_says_why(subject, monkeypatch):
    monkeypatch.setattr(module_uses, "USES", {name: module_uses.USES[name] for name in ("deepcopy", "jit.trace")})
    fixed = torch.fx.symbolic_trace(nn.Sequential(nn.Unflatten(0, (2, 1)), nn.Linear(8, 2)))
    found = try_uses(fixed, subject.images)
    assert found["deepcopy"] == 0.0
    assert found["jit.trace"].startswith("RuntimeError")


def row(network="iresnet18", exporter="dynamo-20", batch=0, fused=True, **changes):
    entry = Row(network, exporter, batch, fused, **{"errors": {"1": 1e-7}, **changes})
    return {**asdict(entry), "misses": entry.misses}


def test_rows_measured_again_replace_the_old_ones_in_the_order_of_the_matrix():
    old = {"rows": [row(), row(network="vit_tiny")], "uses": []}
    new = {"rows": [row(errors={"1": 1.0}), row(batch=1)], "uses": []}
    report = export_matrix.merged(old, new)
    assert [(r["network"], r["batch"]) for r in report["rows"]] == [("iresnet18", 1), ("iresnet18", 0), ("vit_tiny", 0)]
    assert export_matrix.missed(report) == ["iresnet18, dynamo-20, batch dynamic, fused: error 1 at batch 1"]
    assert "3 of 270 cells measured, 2 hold" in export_matrix.table(report)
    assert export_matrix.merged(json.loads(json.dumps(report)), {"rows": [], "uses": []}) == report


@pytest.mark.parametrize(("network", "misses"), [("iresnet18", 2), ("vit_tiny", 1)])
def test_scripting_is_required_of_convolutional_networks_only(network, misses):
    uses = dict.fromkeys(export_matrix.USES, 0.0) | {"jit.script": "NotSupportedError", "torch.compile": 1e-3}
    report = {"rows": [], "uses": [{"network": network, "exporter": "dynamo-20", "fused": False, "uses": uses}]}
    assert len(export_matrix.missed(report)) == misses
    assert "1 fail" in export_matrix.table(report)
