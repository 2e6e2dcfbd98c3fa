"""A command says which server it meets: version, release, and the security fixes that the release lacks."""

import json

import pytest
from onnx import load, save

from rtool.cli import main
from rtool.serving import deploy
from rtool.serving.publishing.on_server.met_server import meet_server, why_it_may_refuse
from rtool.serving.releases.advisories import lacking


def test_deploy_prints_the_advisories_of_the_server(server, repository, onnx_files, capsys):
    command = ["deploy", str(onnx_files["reid"]), "--name", "met", "--repository", str(repository), "--device", "cpu"]
    assert main.run([*command, "--url", server.url]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Triton 2.51.0; Triton 24.10 lacks" in text
    assert "CVE-2025-23310 (9.8, fixed in 25.07)" in text
    assert main.run(["deploy", "--rollback", "--name", "met", "--repository", str(repository), "--json"]) == 2
    capsys.readouterr()
    assert main.run([*command, "--url", server.url, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["server"]
    assert said["release"] == "24.10"
    assert {one["cve"] for one in said["advisories"]} == {one.cve for one in lacking("24.10")}
    assert {"cve": "CVE-2026-47625", "score": None, "fixed": "26.07"} in said["advisories"]


def test_without_a_server_nothing_is_said(tmp_path, onnx_files):
    assert deploy(onnx_files["reid"], name="m", repository=tmp_path / "models", device="cpu").server is None
    assert meet_server("127.0.0.1:1") is None


@pytest.mark.parametrize(("opset", "ir", "said"), [(17, 8, ""), (22, 10, "opset 22"), (17, 11, "IR version 11")])
def test_a_file_that_the_release_does_not_read_is_named(server, onnx_files, tmp_path, opset, ir, said):
    model = load(onnx_files["reid"])
    model.opset_import[0].version, model.ir_version = opset, ir
    save(model, tmp_path / "new.onnx")
    assert said in why_it_may_refuse(server.url, tmp_path / "new.onnx")
    assert bool(why_it_may_refuse(server.url, tmp_path / "new.onnx")) == bool(said)
