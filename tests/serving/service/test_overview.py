"""A server that only unloads what nobody is served any more is ready, whatever Triton's strict door says."""

from types import SimpleNamespace

import pytest
from tritonclient import grpc as triton

from rtool.serving.service.overview import _only_unloads


@pytest.mark.parametrize(
    ("entries", "ready"),
    [
        ([("reid", "2", "READY", ""), ("reid", "1", "UNLOADING", "")], True),
        ([("reid", "1", "READY", ""), (".candidate-reid", "2", "UNLOADING", "")], True),
        ([("reid", "2", "READY", ""), ("reid", "1", "UNLOADING", ""), ("face", "1", "UNAVAILABLE", "unloaded")], True),
        ([("reid", "1", "UNLOADING", "")], False),  # nobody is served by it
        ([("reid", "2", "READY", ""), ("reid", "1", "UNLOADING", ""), ("face", "1", "LOADING", "")], False),
        ([("reid", "2", "READY", ""), ("reid", "1", "UNLOADING", ""), ("face", "1", "UNAVAILABLE", "no file")], False),
        ([("reid", "1", "READY", "")], False),  # then something else is wrong
    ],
)
def test_unloading_alone_does_not_make_a_server_unready(monkeypatch, entries, ready):
    states = [SimpleNamespace(name=n, version=v, state=s, reason=r) for n, v, s, r in entries]

    class Client:
        def __init__(self, url: str) -> None: ...

        def get_model_repository_index(self, **_: object) -> SimpleNamespace:
            return SimpleNamespace(models=states)

        def close(self) -> None: ...

    monkeypatch.setattr(triton, "InferenceServerClient", Client)
    assert _only_unloads("127.0.0.1:1") is ready
