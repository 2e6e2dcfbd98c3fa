"""A packer serves single rows by a model with a fixed batch: the same numbers, each to the client that sent its row."""

import http.client
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rtool.converters.runtime.calling.failures import BackendFailedError
from rtool.errors import InputError
from rtool.serving import (
    ServingSettings,
    TritonClient,
    TritonServer,
    deploy,
    deploy_packer,
    rollback,
    validate_repository,
)
from rtool.serving.publishing.on_server.rollout import load_on_server, unload_from_server
from rtool.serving.repository.model_config import read_config
from rtool.serving.repository.validation import placeholders, servable_models


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(75, 3, 8, 4)).astype(np.float32)


@pytest.fixture
def expected(onnx_files, run_local, crops) -> np.ndarray:
    padded = np.concatenate([crops, crops[:5]])
    return np.concatenate([run_local(onnx_files["reid"], padded[i : i + 16])[0] for i in range(0, 80, 16)])[:75]


def packer_rows(url: str) -> dict[str, float]:
    host, port = url.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    found = [line for line in lines if line.startswith("rtool_packer_rows{")]
    return {
        kind: sum(float(line.split()[-1]) for line in found if f'kind="{kind}"' in line) for kind in ("real", "padded")
    }


def test_single_crops_are_packed_and_answered_identically(server, crops, expected):
    before = packer_rows(server.metrics_url)
    with TritonClient(server.url, "packer") as client:
        assert (client.batch, client.max_batch) == (None, 16)
        got = client.embed(crops)
    np.testing.assert_array_equal(got, expected)
    after = packer_rows(server.metrics_url)
    assert after["real"] - before["real"] == len(crops)
    assert after["padded"] - before["padded"] < len(crops) * 15  # joined, not padded one by one


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_a_request_may_hold_several_rows(server, crops, expected, rows):
    with TritonClient(server.url, "packer") as client:
        np.testing.assert_array_equal(client.run(crops[:rows])[0], expected[:rows])


def test_clients_at_once_each_get_their_own_rows(server, crops, expected):
    with TritonClient(server.url, "packer") as client, ThreadPoolExecutor(12) as pool:
        spans = [(start, start + 1 + start % 5) for start in range(70)]
        answers = list(pool.map(lambda span: client.run(crops[span[0] : span[1]])[0], spans))
    for (start, end), answer in zip(spans, answers, strict=True):
        np.testing.assert_array_equal(answer, expected[start:end])


def test_a_target_that_is_gone_is_an_error_for_the_client_not_the_end_of_the_server(server, repository, onnx_files):
    row = np.zeros((1, 3, 8, 4), np.float32)
    deploy(onnx_files["reid"], name="target", repository=repository, device="cpu", url=server.url)
    deploy_packer("target", name="orphan", repository=repository)
    load_on_server(server.url, "orphan")
    with TritonClient(server.url, "orphan", timeout=2) as client:
        unload_from_server(server.url, "target")
        with pytest.raises(BackendFailedError, match="target"):
            client.run(row)
        load_on_server(server.url, "target")
        assert client.run(row)[0].shape == (1, 8)


def test_a_packer_still_serves_a_target_whose_batch_was_opened(
    server, repository, onnx_files, make_model, exported, tmp_path, crops, expected
):
    deploy(onnx_files["reid"], name="opened", repository=repository, device="cpu", url=server.url)
    deploy_packer("opened", name="opened-packer", repository=repository)
    load_on_server(server.url, "opened-packer")
    path = exported(make_model("reid", tmp_path / "open.onnx", batch="N"))
    with pytest.raises(InputError, match="rows of a request: served 16 rows, new any number of rows") as error:
        deploy(path, name="opened", repository=repository, device="cpu", url=server.url)
    assert "opened-packer" not in str(error.value)
    deploy(path, name="opened", repository=repository, device="cpu", url=server.url, new_contract=True)
    assert [problem for problem in validate_repository(repository) if "opened" in str(problem.path)] == []
    with TritonClient(server.url, "opened-packer") as client:
        np.testing.assert_allclose(client.embed(crops[:21]), expected[:21], rtol=1e-6)


def test_a_target_that_takes_fewer_rows_than_the_packer_sends_does_not_fit_it(
    tmp_path, onnx_files, make_model, exported
):
    root = tmp_path / "models"
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    deploy_packer("m", name="front", repository=root)
    path = exported(make_model("reid", tmp_path / "open.onnx", batch="N"))
    with pytest.raises(InputError, match=r"needs TYPE_FP32 \[16, 8\] of 'm', .*\[8\] with max_batch_size 4"):
        deploy(path, name="m", repository=root, device="cpu", settings=ServingSettings(max_batch=4))


def test_a_dynamic_batch_needs_no_packer(tmp_path, onnx_files):
    deploy(onnx_files["face"], name="face", repository=tmp_path / "models", device="cpu")
    with pytest.raises(InputError, match="a dynamic batch needs no packer"):
        deploy_packer("face", name="packer", repository=tmp_path / "models")
    with pytest.raises(InputError, match="no such file"):
        deploy_packer("nothing", name="packer", repository=tmp_path / "models")


def test_a_packer_waits_for_the_weights_of_its_target(tmp_path: Path, onnx_files):
    root = tmp_path / "models"
    deploy(onnx_files["reid"], name="reid", repository=root, device="cpu")
    deploy_packer("reid", name="packer", repository=root)
    assert validate_repository(root) == ()
    with pytest.raises(InputError, match="'reid' must be served too"):
        TritonServer(root, models=["packer"]).start()
    (root / "reid/1/model.onnx").unlink()
    assert [problem.path.parent.name for problem in placeholders(root)] == ["packer", "1"]
    with pytest.raises(InputError, match="no model with weights"):
        servable_models(root)


def test_a_packer_is_updated_and_rolled_back_like_a_model(tmp_path, onnx_files):
    root = tmp_path / "models"
    deploy(onnx_files["reid"], name="reid", repository=root, device="cpu")
    deploy_packer("reid", name="packer", repository=root)
    config = read_config(root / "packer/config.pbtxt")
    assert config.dynamic_batching.max_queue_delay_microseconds == 15_000  # a batch's time on a CPU
    assert deploy_packer("reid", name="packer", repository=root, max_delay=9).version == 2
    assert rollback("packer", repository=root).served == (1,)
    assert validate_repository(root) == ()
