"""Random exports convert, train and come back; a fault in any of it is counted, and a run goes on where it ended."""

import json
from dataclasses import asdict

import onnx
import pytest
import torch

from rtool.benchmarks.robustness import random_export_checks, random_exports
from rtool.benchmarks.robustness.random_export_checks import Checked, check
from rtool.benchmarks.robustness.random_exports import main, table
from rtool.benchmarks.robustness.random_networks import EXPORTERS, draw, export, inputs_of
from rtool.converters import onnx_to_torch

TORCHSCRIPT = [1, 7, 9, 17, 25, 55, 66, 86, 97, 100, 103, 112]
DYNAMO = [12]
"""Of those that take a second or two, some of every opset and with every part."""
MORE = [2, 8, 16, 18, 19, 20, 45, 46, 47, 54, 65, 87, 99, 101, 104, 113, 134]
"""Further ones, in `make test-all`."""
OPEN_SHAPES = [514, 834, 977]
"""Sizes that onnx's shape inference loses, though a Reshape states them."""
PER_IMAGE_AND_FIXED = 7


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "index",
    [*TORCHSCRIPT, *DYNAMO, *OPEN_SHAPES, *(pytest.param(index, marks=pytest.mark.slow) for index in MORE)],
)
def test_a_random_export_converts_trains_and_comes_back(index):
    found = check(0, index)
    assert found.faults == []
    assert found.status in ("agrees", "rounding"), found
    assert (found.gradients, found.written_back) == ("ok", "ok")


def test_the_same_number_is_the_same_network_and_every_exporter_and_opset_is_drawn():
    (first, how), (again, same) = draw(3, 7), draw(3, 7)
    assert how == same
    assert first.description == again.description
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    drawn = {(how.exporter, how.opset) for _, how in (draw(0, index) for index in range(16))}
    assert drawn == set(EXPORTERS)
    assert {how.batch is None for _, how in (draw(0, index) for index in range(16))} == {True, False}


def test_networks_treat_each_image_for_itself_unless_they_say_that_they_mix():
    mixing = 0
    for index in range(60):
        network, _ = draw(1, index)
        batch = inputs_of(network, 3)
        with torch.no_grad():
            together, alone = network(*batch), network(*(tensor[1:2] for tensor in batch))
        together, alone = (output if isinstance(output, torch.Tensor) else output[0] for output in (together, alone))
        assert torch.allclose(together[1:2], alone, rtol=1e-4, atol=1e-5) != network.mixes, network.description
        mixing += network.mixes
    assert 0 < mixing < 10


def test_a_converter_that_is_wrong_is_found_out(monkeypatch):
    def wrong(model):
        module = onnx_to_torch(model)
        with torch.no_grad():
            next(iter(module.parameters())).mul_(1.01)
        return module

    monkeypatch.setattr(random_export_checks, "onnx_to_torch", wrong)
    found = check(0, PER_IMAGE_AND_FIXED)
    assert found.status == "wrong"
    assert found.faults[0].startswith("wrong: batch 1: against float64, the module ")


def test_a_write_back_that_loses_the_training_and_a_traceback_are_found_out(monkeypatch):
    monkeypatch.setattr(random_export_checks, "write_back", lambda _module, model: model)
    found = check(0, PER_IMAGE_AND_FIXED)
    assert found.written_back.startswith("differs by ")
    assert found.faults == [f"write-back {found.written_back}"]

    def broken(_model, _batch):
        raise KeyError("ours")

    monkeypatch.setattr(random_export_checks, "set_batch", broken)
    assert "traceback in _open_batch: KeyError: 'ours'" in check(0, PER_IMAGE_AND_FIXED).faults


def test_a_batch_that_is_opened_wrongly_is_found_out(monkeypatch):
    network, how = draw(0, PER_IMAGE_AND_FIXED)
    other = onnx.ModelProto()
    other.CopyFrom(export(network, how))
    bias = next(tensor for tensor in other.graph.initializer if len(tensor.dims) == 1)
    bias.raw_data = bytes(len(bias.raw_data))
    for value in (*other.graph.input, *other.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    monkeypatch.setattr(random_export_checks, "set_batch", lambda _model, _batch: other)
    found = check(0, PER_IMAGE_AND_FIXED)
    assert found.opened.startswith("differs by ")
    assert found.faults == [f"--batch dynamic {found.opened}"]


def one(index, **found):
    return Checked(0, index, "dynamo-18" if index % 2 else "torchscript-11", 1, "16x8: GeM", **found)


def test_the_table_counts_what_became_of_the_files():
    text = table(
        [
            one(0, status="agrees", gradients="ok", written_back="ok", opened="ok"),
            one(1, status="not exported"),
            one(2, status="agrees", gradients="ok", written_back="ok", opened="refused: a constant"),
            one(3, status="agrees", gradients="ok", written_back="ok", opened="refused: it mixes", mixes=True),
            one(4, status="refused", faults=["refused: no lowering"]),
            one(5, status="agrees", runtime="a kernel cannot"),
        ]
    )
    assert "| all | 6 | 1 | 4 | 0 | 1 | 0 | 0 | 3 of 3 | 3 of 3 | 1 of 2 |" in text
    assert "| 0/2 | torchscript-11, batch 1 | 16x8: GeM | refused: a constant |" in text
    assert "| 0/4 | torchscript-11, batch 1 | 16x8: GeM | refused: no lowering |" in text
    assert "1 files ONNX Runtime cannot run" in text


class Stub:
    """In the place of the process: says which files it was asked for."""

    asked: list[int]

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, seed, index):
        Stub.asked.append(index)
        if index == 3:
            return "crashed", "the process ended with code 9"
        return Checked(seed, index, "dynamo-18", 1, "n", status="agrees", faults=["late"] if index == 5 else [])


def test_a_run_goes_on_where_its_journal_ends_and_shards_are_joined(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(random_exports, "Isolated", Stub)
    journals = [tmp_path / "a", tmp_path / "b"]
    journals[0].write_text(json.dumps(asdict(Checked(0, 2, "dynamo-18", 1, "n", status="agrees"))) + "\n")
    asked = []
    for shard, journal in enumerate(journals):
        Stub.asked = []
        code = main(["--count", "6", "--shard", f"{shard}/2", "--journal", str(journal), "--results", str(tmp_path)])
        asked.append(Stub.asked)
        assert code == shard  # 3 crashed and 5 is a fault
    assert asked == [[0, 4], [1, 3, 5]]
    assert not list(tmp_path.glob("*.md"))
    assert main(["--join", *map(str, journals), "--results", str(tmp_path)]) == 1
    written = next(tmp_path.glob("*-random-exports.md")).read_text()
    assert "6 files." in written
    assert "crashed: the process ended with code 9" in written
    assert "| all | 6 |" in capsys.readouterr().out
