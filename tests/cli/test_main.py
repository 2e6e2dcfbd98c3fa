"""What all commands share: exit codes, examples in every help, one message per error."""

import io
import json
import sys

import click
import pytest

from rtool.cli import main
from rtool.cli.output import Output
from rtool.errors import GateError, InputError


def all_commands(group: click.Group = main.cli, prefix: str = "") -> list[tuple[str, click.Command]]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += all_commands(command, f"{prefix}{name} ")
        else:
            found.append((prefix + name, command))
    return found


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=[name for name, _ in all_commands()])
def test_every_help_ends_with_examples_to_paste(name: str, command: click.Command, capsys):
    assert main.run([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    pasteable = [line for line in text.split("Examples:")[-1].splitlines() if line.strip().startswith("rtool " + name)]
    assert len(pasteable) >= 2


@pytest.mark.parametrize("group", [[], ["bench"], ["config"]])
def test_a_group_lists_each_command_with_a_whole_sentence(group, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main.run([*group, "--help"]) == 0
    listed = capsys.readouterr().out.split("Commands:")[1].splitlines()
    assert listed
    assert not [line for line in listed if line.endswith("...")]


@pytest.fixture
def failing_command(monkeypatch):
    def install(error: BaseException) -> None:
        @click.command("fail")
        def fail() -> None:
            raise error

        monkeypatch.setitem(main.cli.commands, "fail", fail)

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("a.onnx: is empty"), 2), (GateError("parity: missed"), 1), (KeyboardInterrupt(), 130)],
)
def test_a_known_error_is_one_message_and_its_code(failing_command, capsys, error, code):
    failing_command(error)
    assert main.run(["fail"]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert str(error) in captured.err


def test_a_bug_shows_its_traceback_and_exits_101(failing_command, capsys):
    failing_command(ZeroDivisionError("division by zero"))
    assert main.run(["fail"]) == 101
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error(capsys):
    assert main.run(["convret"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_ascii_stream_stops_no_command(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)

    @click.command("tick")
    def tick() -> None:
        sys.stdout.write("✓ done\n")

    monkeypatch.setitem(main.cli.commands, "tick", tick)
    assert main.run(["tick"]) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u2713 done\n"


def test_piped_tables_have_no_blanks_at_their_ends(capsys):
    Output(as_json=False, quiet=False).emit({}, [("a", "short"), ("b", "a longer value")])
    assert capsys.readouterr().out.splitlines() == ["a  short", "b  a longer value"]


def test_a_planned_server_is_one_json_object(tmp_path, capsys):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"x")
    (tmp_path / "m" / "config.pbtxt").write_text('name: "m"\nbackend: "onnxruntime"\n')
    command = ["serve", str(tmp_path), "--container", "--dry-run", "--json"]
    assert main.run(command) == 0
    assert "docker" in json.loads(capsys.readouterr().out)["command"]
