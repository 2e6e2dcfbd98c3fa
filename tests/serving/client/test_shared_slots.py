"""Inputs go through shared memory where the server allows it, and by gRPC where it does not; answers are the same."""

import errno
import stat
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from rtool.converters.runtime.calling.access_key import grpc_headers
from rtool.errors import InputError, PlatformError
from rtool.serving import Client

ROWS = np.random.default_rng(3).normal(size=(40, 3, 8, 4)).astype(np.float32)


def regions() -> set[Path]:
    return set(Path("/dev/shm").glob("rtool-*"))


def test_answers_are_those_of_grpc_and_nothing_is_left(server):
    before = regions()
    with (
        Client(server.url, "reid", shared_memory=False) as plain,
        Client(server.url, "reid", shared_memory=True) as shared,
    ):
        assert shared.transport == "shared memory"
        np.testing.assert_array_equal(shared.embed(ROWS), plain.embed(ROWS))
        (mine,) = regions() - before
        assert stat.S_IMODE(mine.stat().st_mode) == 0o600
        assert plain.transport.startswith("gRPC")
    assert regions() == before
    status = triton.InferenceServerClient(server.url).get_system_shared_memory_status(
        headers=dict(grpc_headers(server.url))
    )
    assert f"/{mine.name}" not in {region.key for region in status.regions.values()}


def test_another_user_cannot_reach_the_memory_of_a_client_by_what_everybody_sees(server):
    before = regions()
    with Client(server.url, "reid", shared_memory=True) as client:
        client.embed(ROWS)
        (mine,) = regions() - before
        content = mine.read_bytes()
        known = triton.InferenceServerClient(server.url).get_system_shared_memory_status(
            headers=dict(grpc_headers(server.url))
        )
        assert f"/{mine.name}" in {region.key for region in known.regions.values()}
        for name in (mine.name, f"/{mine.name}", mine.name.removeprefix("rtool-")):
            given = triton.InferInput("images", [16, 3, 8, 4], "FP32")
            given.set_shared_memory(name, 16 * 3 * 8 * 4 * 4)
            wanted = triton.InferRequestedOutput("embedding")
            wanted.set_shared_memory(name, 16 * 8 * 4)
            with pytest.raises(InferenceServerException, match="Unable to find shared memory region"):
                triton.InferenceServerClient(server.url).infer("reid", [given], outputs=[wanted])
        assert mine.read_bytes() == content


def test_several_inputs_lie_in_one_slot(server, onnx_files, run_local):
    draw = np.random.default_rng(5)
    arrays = (
        draw.normal(size=(5, 3)).astype(np.float16),
        draw.integers(-9, 9, size=(5, 3)),
        draw.integers(0, 2, size=(5, 3)).astype(bool),
    )
    with Client(server.url, "types", shared_memory=True) as client:
        for answer, expected in zip(client.run(*arrays), run_local(onnx_files["types"], *arrays), strict=True):
            np.testing.assert_array_equal(answer, expected)


def test_a_region_that_the_server_forgot_costs_no_answer(server):
    with Client(server.url, "reid", shared_memory=True) as client:
        right = client.embed(ROWS)
        triton.InferenceServerClient(server.url).unregister_system_shared_memory(headers=dict(grpc_headers(server.url)))
        np.testing.assert_array_equal(client.embed(ROWS), right)
        np.testing.assert_array_equal(client.embed(ROWS), right)


def test_bad_input_through_shared_memory_is_refused_as_by_grpc(server):
    with Client(server.url, "lookup", shared_memory=True) as client:
        with pytest.raises(InputError, match="out of data bounds"):
            client.run(np.array([[99]]))
        np.testing.assert_array_equal(client.run(np.array([[3]]))[0], [[[6.0, 7.0]]])


def test_without_the_key_inputs_go_by_grpc(server, monkeypatch):
    monkeypatch.setattr("rtool.serving.client.shared_slots.grpc_headers", lambda url: {})
    with Client(server.url, "reid") as client:
        right = client.embed(ROWS)
        assert client.transport.startswith("gRPC: the server does not take shared memory")
    assert right.shape == (40, 8)
    with pytest.raises(PlatformError, match="shared memory"):
        Client(server.url, "reid", shared_memory=True)


def test_where_there_is_no_memory_to_share_inputs_go_by_grpc(server, monkeypatch):
    """Containers often have 64 MB; a write into memory that the system does not have ends a program by SIGBUS."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = regions()
    monkeypatch.setattr("os.posix_fallocate", full)
    with Client(server.url, "reid") as client:
        assert client.embed(ROWS).shape == (40, 8)
        assert "No space left on device" in client.transport
    assert regions() == before
