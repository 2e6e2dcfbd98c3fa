"""The container command: locked down, and its shell line puts the key where Triton expects it."""

import subprocess

import pytest

from rtool.serving.server.access import RESTRICTED
from rtool.serving.server.container import IMAGE, KEY_VARIABLE, container_command


@pytest.fixture
def command(tmp_path) -> list[str]:
    return container_command(tmp_path / "models", models=["a b"], control="explicit", config_name="cpu")


@pytest.mark.parametrize(
    "option",
    [
        "--user=65534:65534",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--publish=127.0.0.1:8000:8000",
    ],
)
def test_the_container_is_locked_down(command, option):
    assert option in command[: command.index(IMAGE)]


def test_the_repository_is_read_only_and_the_key_not_on_the_host_command_line(command, tmp_path):
    assert f"--volume={tmp_path / 'models'}:/models:ro" in command
    assert f"--env={KEY_VARIABLE}" in command  # docker takes the value from its environment


def test_the_shell_starts_triton_closed_with_every_argument(command, tmp_path):
    fake = tmp_path / "tritonserver"
    fake.write_text('#!/bin/sh\numask\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    inside = command[command.index(IMAGE) + 1 :]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", KEY_VARIABLE: "secret"}
    got = subprocess.run(inside, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert got[0] == "0077"
    names = ",".join(RESTRICTED)
    assert got[1:3] == [
        f"--http-restricted-api={names}:rtool-key=secret",
        f"--grpc-restricted-protocol={names}:rtool-key=secret",
    ]
    for option in ("--allow-sagemaker=false", "--allow-vertex-ai=false", "--load-model=a b", "--model-config-name=cpu"):
        assert option in got
