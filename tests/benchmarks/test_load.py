"""Load on a real Triton, and the arithmetic of windows on constructed samples."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from rtool.benchmarks import load, parity, serving
from rtool.benchmarks.request_time import explain
from rtool.benchmarks.server_statistics import ServerTime
from rtool.errors import InputError, PlatformError
from rtool.serving import TritonServer, deploy


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    shape = ["batch", 8]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path = folder / "relu.onnx"
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), path)
    deploy(path, name="relu", repository=folder / "repository", batch="dynamic", force=True)
    with TritonServer(folder / "repository", stop_timeout=0.0) as running:
        running.onnx = path
        yield running


def test_closed_loop_keeps_requests_in_flight_and_loses_none(server):
    report = serving(server.url, "relu", concurrency=4, rows=2, window=0.3, max_windows=3)
    assert report.errors == 0
    assert report.requests > 10
    assert report.crops_per_second == pytest.approx(2 * report.requests_per_second)
    assert report.p50 <= report.p90 <= report.p95 <= report.p99
    assert report.mean_batch >= 1


def test_open_loop_sends_on_its_schedule_however_long_the_answers_take(server):
    report = serving(server.url, "relu", rate=100, window=0.5, max_windows=3)
    assert report.requests_per_second == pytest.approx(100, rel=0.5)
    assert report.sched_p50 >= report.p50


@pytest.mark.parametrize("counted", [True, False])
def test_the_parts_of_a_request_add_up_to_what_the_client_waited(server, counted):
    metrics = server.metrics_url if counted else None
    for _ in range(2):  # the back end sends its counters once a second, the first time at once
        report = serving(server.url, "relu", concurrency=2, window=0.5, max_windows=3, explained=True, metrics=metrics)
    parts = {one.part: one.ms for one in report.explained}
    inner = {"model", "our backend", "other process"} if counted else {"model and its process"}
    assert parts.keys() == {"client", "network, gRPC", "queue", "copies", "server"} | inner
    assert sum(one.share for one in report.explained) == pytest.approx(1)
    # "other process" is a mean of Triton's requests less one of the back end's, which are not quite the same requests.
    assert all(parts[name] >= 0 for name in ("client", "queue", "copies", *(inner - {"other process"})))
    assert sum(parts[name] for name in ("queue", "copies", *inner)) > 0


def test_a_wrong_metrics_address_is_named(server):
    with pytest.raises(PlatformError, match="--metrics"):
        serving(server.url, "relu", explained=True, metrics="127.0.0.1:9")


def test_the_parts_are_named_by_subtraction():
    server = ServerTime(
        requests=10, queue=2.0, copies=0.5, compute=4.0, total=7.0, mean_batch=1.0, execute=3.5, session=3.0
    )
    assert {one.part: one.ms for one in explain(10.0, 1.0, server)} == {
        "client": 1.0,
        "network, gRPC": 2.0,
        "queue": 2.0,
        "copies": 0.5,
        "model": 3.0,
        "our backend": 0.5,
        "other process": 0.5,
        "server": 0.5,
    }


def test_a_served_model_is_compared_with_its_file(server):
    report = parity(server.onnx, f"triton://{server.url}/relu", max_rel=0.0)
    assert report.passed
    assert report.parity.identical


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"rows": 0}, {"rate": -1.0}, {"window": 0.0}])
def test_options_that_are_not_positive_are_refused(options):
    with pytest.raises(InputError, match="must be positive"):
        serving("127.0.0.1:1", "relu", **options)


def test_a_server_that_is_not_there_is_an_error_with_its_address():
    with pytest.raises(PlatformError, match=r"127\.0\.0\.1:9"):
        serving("127.0.0.1:9", "relu")


def samples(*latencies: float, every: float) -> list[load._Sample]:
    times = every * np.arange(1, len(latencies) + 1)
    return [load._Sample(done - took, done - took, done, True) for done, took in zip(times, latencies, strict=True)]


def test_stable_means_three_windows_within_ten_percent():
    assert load._is_stable(samples(*[0.01] * 60, every=0.05), 0.0, 1.0, 3)
    assert not load._is_stable(samples(*[0.01] * 40, *[0.02] * 20, every=0.05), 0.0, 1.0, 3)
    assert not load._is_stable(samples(*[0.01] * 40, every=0.05), 0.0, 1.0, 2)  # two windows are too few


def test_only_answers_inside_a_window_count():
    found = load._windows(samples(*[0.01] * 30, every=0.1), 0.0, 1.0, 2)
    assert [len(window) for window in found] == [9, 10]  # ends at 0.1 .. 0.9, then 1.0 .. 1.9
