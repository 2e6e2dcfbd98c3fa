"""`rtool embed` prints the file last, one JSON object with --json, and refuses bad input with exit code 2."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rtool
from rtool.cli.main import run

EXAMPLE = str(Path(rtool.__file__).parent / "examples" / "models" / "osnet_x0_25_synthetic.onnx")
PEOPLE = "synthetic-people:identities=3,images=3,seed=1"


def test_the_path_is_printed_last_and_progress_goes_to_stderr(tmp_path, capsys):
    out = tmp_path / "out.npz"
    assert run(["embed", EXAMPLE, PEOPLE, "-o", str(out), "--limit", "7"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(out)
    assert "7, 512 numbers each" in printed
    assert np.load(out)["embeddings"].shape == (7, 512)


def test_json_is_one_object(tmp_path, capsys):
    Image.new("RGB", (64, 128)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert run(["embed", EXAMPLE, str(tmp_path), "-o", str(tmp_path / "out.npy"), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["images"], found["dimension"], found["unreadable"], found["computed"]) == (1, 512, ["b.jpg"], 1)
    assert "1 of 2 images cannot be read: b.jpg" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([EXAMPLE, "absent"], "absent: no such file or folder"),
        (["absent.onnx", PEOPLE], "absent.onnx: no such file"),
        ([EXAMPLE, PEOPLE, "--size", "12"], "expected HEIGHTxWIDTH"),
        ([EXAMPLE, PEOPLE, "--embedding", "1"], "output 1 was asked for and it has 1"),
        ([EXAMPLE, PEOPLE, "--limit", "0"], "--limit"),
        (["triton://127.0.0.1:70000/m", PEOPLE], "there is no port 70000"),
        ([EXAMPLE, PEOPLE, "--cache", "file"], "file"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert run(["embed", *arguments, "-o", "out.npz"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out.npz").exists()
