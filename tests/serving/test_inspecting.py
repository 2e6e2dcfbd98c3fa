"""`inspect triton://` shows what the server states of a model."""

import hashlib
import json

import pytest

import rtool
from rtool.cli.main import run
from rtool.errors import InputError, PlatformError


def test_a_fixed_batch(server, onnx_files):
    found = rtool.inspect(f"triton://{server.url}/reid")
    assert (found.kind, found.version, found.versions) == ("served", 1, (1,))
    assert (found.batch, found.max_batch, found.on_cpu, found.target) == (16, 16, True, None)
    assert found.inputs[0].shape == (16, 3, 8, 4)
    assert found.sha256 == hashlib.sha256(onnx_files["reid"].read_bytes()).hexdigest()
    assert found.preprocessing is None


def test_a_dynamic_batch_and_a_packer(server):
    assert rtool.inspect(f"triton://{server.url}/face").batch == "dynamic"
    packer = rtool.inspect(f"triton://{server.url}/packer")
    assert (packer.target, packer.max_batch, packer.sha256) == ("reid", 16, None)


def test_the_command_prints_rows_or_json(server, capsys):
    reference = f"triton://{server.url}/reid"
    assert run(["inspect", reference]) == 0
    assert "16 x 3 x 8 x 4" in capsys.readouterr().out
    assert run(["inspect", reference, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"] == [1]
    assert run(["inspect", reference, "--quiet"]) == 0
    assert "version 1, batch 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("reference", "options", "error", "said"),
    [
        ("triton://{url}/ried", {}, InputError, "did you mean reid"),
        ("triton://{url}/reid/7", {}, InputError, "versions ready: 1"),
        ("triton://{url}", {}, InputError, "expected triton://host:port/model"),
        ("triton://127.0.0.1:1/reid", {}, PlatformError, "does not answer"),
        ("triton://{url}/reid", {"verify": True}, InputError, "need the graph"),
    ],
)
def test_what_cannot_be_inspected_is_refused(reference, options, error, said, server):
    with pytest.raises(error, match=said):
        rtool.inspect(reference.format(url=server.url), **options)
