"""A real Triton gives exactly the numbers of in-process ONNX Runtime, however the rows travel."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rtool.bench import latency, parity
from rtool.converters.runtime.triton import TritonRunner
from rtool.errors import InputError, PlatformError
from rtool.finetune.embedding.embedders import open_embedder
from rtool.serving import TritonClient


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(16, 3, 8, 4)).astype(np.float32)


@pytest.fixture
def faces() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, size=(23, 6, 6, 3), dtype=np.uint8)


def test_a_fixed_batch_is_answered_identically(server, onnx_files, run_local, crops):
    with TritonClient(server.url, "reid") as client:
        (got,) = client.run(crops)
    (expected,) = run_local(onnx_files["reid"], crops)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 40])
def test_any_number_of_rows_is_packed_into_fixed_batches(server, onnx_files, run_local, crops, rows):
    many = np.concatenate([crops, crops[::-1], crops])[:rows]
    with TritonClient(server.url, "reid") as client:
        got = client.embed(many)
    padded = np.concatenate([many, np.repeat(many[-1:], -rows % 16, axis=0)])
    expected = np.concatenate([run_local(onnx_files["reid"], padded[i : i + 16])[0] for i in range(0, len(padded), 16)])
    np.testing.assert_array_equal(got, expected[:rows])


def test_a_row_does_not_depend_on_its_slot_or_its_neighbours(server, crops):
    with TritonClient(server.url, "reid") as client:
        answers = []
        for slot in range(16):
            batch = np.random.default_rng(slot).normal(size=crops.shape).astype(np.float32)
            batch[slot] = crops[0]
            answers.append(client.run(batch)[0][slot])
    assert all(np.array_equal(answers[0], answer) for answer in answers)


def test_one_dynamic_batch_is_answered_identically(server, onnx_files, run_local, faces):
    with TritonClient(server.url, "face") as client:
        (got,) = client.run(faces[:16])
    np.testing.assert_array_equal(got, run_local(onnx_files["face"], faces[:16])[0])


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_no_request_is_refused(server, crops, faces, window):
    for name, rows in (("reid", crops), ("face", faces)):
        with TritonClient(server.url, name) as client, pytest.raises(InputError, match=f"got {window}"):
            client.run_rows(rows, window=window)


def test_rows_sent_one_by_one_are_joined_by_the_batcher_and_keep_their_order(server, onnx_files, run_local, faces):
    import tritonclient.grpc as triton

    many = np.concatenate([faces] * 10)
    statistics = triton.InferenceServerClient(server.url).get_inference_statistics
    before = statistics("face").model_stats[0]
    with TritonClient(server.url, "face") as client:
        got = client.embed(many)
    deadline = time.monotonic() + 5  # the server counts a batch after it has answered it
    while (after := statistics("face").model_stats[0]).inference_count < before.inference_count + len(many):
        assert time.monotonic() < deadline
    # Another batch size may take another matrix kernel: same up to the last bits, same order.
    np.testing.assert_allclose(got, run_local(onnx_files["face"], many)[0], rtol=0, atol=1e-6)
    assert after.inference_count - before.inference_count == len(many)
    assert after.execution_count - before.execution_count < len(many)


def test_half_int64_bool_and_double_cross_unchanged(server, onnx_files, run_local):
    draw = np.random.default_rng(5)
    arrays = (
        draw.normal(size=(5, 3)).astype(np.float16),
        draw.integers(-9, 9, size=(5, 3)),
        draw.integers(0, 2, size=(5, 3)).astype(bool),
    )
    with TritonClient(server.url, "types") as client:
        got = client.run(*arrays)
        names = [spec.name for spec in client.outputs]
    assert names == ["doubled", "negated", "flipped", "wide"]
    for answer, expected in zip(got, run_local(onnx_files["types"], *arrays), strict=True):
        assert answer.dtype == expected.dtype
        np.testing.assert_array_equal(answer, expected)


def test_one_value_per_row_keeps_the_shape_of_the_graph(server):
    scores = np.arange(5, dtype=np.float32)
    with TritonClient(server.url, "score") as client:
        assert client.inputs[0].shape == client.outputs[0].shape == (None,)
        np.testing.assert_array_equal(client.run(scores)[0], scores * 2)
        np.testing.assert_array_equal(client.embed(scores), scores * 2)


def test_a_failing_request_does_not_fail_its_neighbours_in_the_batch(server):
    with TritonClient(server.url, "lookup") as client, ThreadPoolExecutor(8) as pool:

        def ask(index: int) -> np.ndarray | str:
            try:
                return client.run(np.array([[index]]))[0]
            except InputError as error:
                return str(error)

        answers = list(pool.map(ask, [3, 99] * 40))
    assert all("indices element out of data bounds" in answer for answer in answers[1::2])
    for answer in answers[::2]:
        np.testing.assert_array_equal(answer, [[[6.0, 7.0]]])


def test_specs_state_names_types_and_batch(server):
    with TritonClient(server.url, "reid") as fixed, TritonClient(server.url, "face") as dynamic:
        assert (fixed.batch, fixed.max_batch) == (16, 0)
        assert (dynamic.batch, dynamic.max_batch) == (None, 16)
        assert fixed.inputs[0].shape == (16, 3, 8, 4)
        assert (dynamic.inputs[0].name, dynamic.inputs[0].dtype, dynamic.inputs[0].shape) == (
            "faces",
            "uint8",
            (None, 6, 6, 3),
        )


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((16, 3, 8, 4)), "float64"),  # wrong type
        (np.zeros((16, 3, 8, 5), np.float32), "[16, 3, 8, 5]"),  # wrong size
        (np.zeros((4, 3, 8, 4), np.float32), "[4, 3, 8, 4]"),  # `run` sends what it is given
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_they_are_sent(server, array, said):
    with TritonClient(server.url, "reid") as client, pytest.raises(InputError) as error:
        client.run(array)
    assert "'images' expected float32 [16, 3, 8, 4]" in str(error.value)
    assert said in str(error.value)


def test_more_rows_than_the_model_supports_in_one_request_are_refused(server):
    with TritonClient(server.url, "face") as client, pytest.raises(InputError, match="accepts 1 to 16"):
        client.run(np.zeros((17, 6, 6, 3), np.uint8))


def test_an_unknown_model_names_the_nearest(server):
    with pytest.raises(InputError, match="did you mean reid"):
        TritonClient(server.url, "ried")


def test_an_unknown_version_names_those_that_are_ready(server):
    with pytest.raises(InputError, match="versions ready: 1"):
        TritonClient(server.url, "reid", 9)


def test_a_reference_opens_a_runner(server, onnx_files, run_local, crops):
    runner = TritonRunner.from_reference(f"triton://{server.url}/reid/1")
    assert runner.batch == 16
    np.testing.assert_array_equal(runner.run(crops)[0], run_local(onnx_files["reid"], crops)[0])


@pytest.mark.parametrize("rows", [65, 128, 300])
def test_a_runner_cuts_rows_to_what_a_request_may_have(server, onnx_files, run_local, rows):
    many = np.random.default_rng(5).integers(0, 256, size=(rows, 6, 6, 3), dtype=np.uint8)
    (got,) = TritonRunner.from_reference(f"triton://{server.url}/face").run(many)
    np.testing.assert_allclose(got, run_local(onnx_files["face"], many)[0], rtol=0, atol=1e-6)


def test_commands_send_more_rows_than_a_request_may_have(server, onnx_files):
    reference = f"triton://{server.url}/face"
    report = parity(onnx_files["face"], reference, batch=100)
    assert (report.passed, report.batch) == (True, 100)
    assert latency([reference], batch=100, rounds=3, warmup=0).batch == 100
    embedder = open_embedder(reference, batch=200)
    assert embedder.embed(np.zeros((150, 6, 6, 3), np.uint8)).shape == (150, 4)


def test_a_server_that_states_no_preprocessing_is_not_guessed_at(server):
    with pytest.raises(InputError, match="--preprocessing"):
        open_embedder(f"triton://{server.url}/reid")


def test_no_server_is_a_platform_error_with_a_way_out():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(PlatformError, match="rtool serve"):
        TritonClient(url, "reid", timeout=5)


def test_a_server_that_never_answers_times_out():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(PlatformError, match=r"no answer within 0\.5 s"):
            TritonClient(f"127.0.0.1:{silent.getsockname()[1]}", "reid", timeout=0.5)


def test_the_server_states_the_preprocessing_that_was_published(server):
    decision = open_embedder(f"triton://{server.url}/face").decision
    assert decision.reason == "stated by the server's configuration"
    assert (decision.preprocessing.height, decision.preprocessing.width) == (6, 6)
    assert (decision.preprocessing.layout, decision.preprocessing.std) == ("nhwc", (1.0,) * 3)
    with pytest.raises(InputError, match="a server does not show the graph"):
        open_embedder(f"triton://{server.url}/reid")
