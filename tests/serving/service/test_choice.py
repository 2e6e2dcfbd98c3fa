"""Which server runs: PATH, container, embedded, in this order and with the reason; a program stands in for docker."""

import pytest

from rtool.errors import PlatformError
from rtool.serving.service.choice import choose_server


@pytest.fixture
def program(tmp_path, monkeypatch):
    """`program(name, script)` puts a program on an otherwise almost empty PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    write("docker", "exit 1")  # hides one that the machine may have
    return write


def test_a_server_on_path_comes_first(program):
    program("tritonserver", "exit 0")
    program("docker", "exit 0")
    choice = choose_server()
    assert (choice.kind, choice.triton.embedded) == ("path", False)
    assert "on PATH" in choice.why


@pytest.mark.parametrize(
    ("docker", "kind", "why"),
    [
        ("exit 0", "container", "container nvcr.io/nvidia/tritonserver:"),
        ("exit 1", "embedded", "its engine does not run"),
        ('[ "$1" = info ]', "embedded", "the image is not here; get it with `docker pull nvcr.io/"),
    ],
)
def test_a_container_needs_an_engine_and_the_image(program, docker, kind, why):
    program("docker", docker)
    choice = choose_server(fetch=False)
    assert choice.kind == kind
    assert why in choice.why


def test_what_is_asked_for_is_never_replaced(program):
    with pytest.raises(PlatformError, match="no tritonserver on PATH"):
        choose_server("path")
    with pytest.raises(PlatformError, match="its engine does not run"):
        choose_server("container")
    program("tritonserver", "exit 0")
    assert choose_server("embedded", fetch=False).triton.embedded
