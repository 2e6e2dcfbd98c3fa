"""The environment of the embedded server: its allocator keeps buffers, unless the user says otherwise."""

from pathlib import Path

from rtool.serving.server.embedded import Triton


def test_the_embedded_server_keeps_its_buffers_and_the_users_choice_wins(monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    environment = Triton(Path("tritonserver"), Path("root")).environment()
    assert environment["MALLOC_TRIM_THRESHOLD_"] == str(8 << 20)
    assert environment["MALLOC_TOP_PAD_"] == "4096"
    assert "MALLOC_TRIM_THRESHOLD_" not in Triton(Path("tritonserver")).environment()
