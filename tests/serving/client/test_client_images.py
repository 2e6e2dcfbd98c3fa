"""The client prepares images as the server states, keeps their order, and names what it cannot send."""

import asyncio
import io
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import InputError
from rtool.serving import AsyncClient, Client, RequestTimeoutError

SIZE = Preprocessing(8, 4)


@pytest.fixture
def images() -> list[Image.Image]:
    draw = np.random.default_rng(7)
    return [Image.fromarray(draw.integers(0, 256, (20 + n, 12, 3), dtype=np.uint8)) for n in range(21)]


@pytest.fixture
def expected(images, onnx_files, run_local) -> np.ndarray:
    rows = SIZE(images)
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % 16, axis=0)])
    parts = [run_local(onnx_files["reid"], padded[start : start + 16])[0] for start in range(0, len(padded), 16)]
    return np.concatenate(parts)[: len(rows)]


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["paths", "bytes", "Pillow", "arrays", "a generator"])
def test_images_of_any_kind_are_prepared_and_stay_in_order(kind, server, images, expected, tmp_path):
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    given = {
        "paths": [tmp_path / f"{number}.png" for number in range(len(images))],
        "bytes": [encoded(image) for image in images],
        "Pillow": images,
        "arrays": [np.asarray(image) for image in images],
        "a generator": (image for image in images),
    }[kind]
    with Client(server.url, "reid", preprocessing="imagenet", threads=3) as client:
        np.testing.assert_array_equal(client.embed_images(given), expected)


def test_a_graph_that_takes_pixels_gets_uint8(server, onnx_files, run_local):
    draw = np.random.default_rng(8)
    pixels = draw.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    with Client(server.url, "face", preprocessing="raw") as client:
        assert client.inputs[0].dtype == "uint8"
        got = client.embed_images(list(pixels))
    np.testing.assert_array_equal(got, run_local(onnx_files["face"], pixels)[0])


def test_preprocessing_that_the_server_does_not_state_is_asked_for_and_never_guessed(server, images):
    with Client(server.url, "reid") as client, pytest.raises(InputError, match="--preprocessing"):
        client.embed_images(images)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"no image", "image 2: cannot be decoded"),
        (np.zeros((4, 4, 3)), "image 2: expected RGB pixels uint8"),
        (np.zeros((4, 4, 4), np.uint8), "image 2: expected RGB pixels uint8"),
        (np.zeros((0, 4, 3), np.uint8), "image 2: expected RGB pixels uint8"),
        ("absent.jpg", r"absent\.jpg: cannot be decoded"),
        (7, "image 2: expected a path, bytes"),
    ],
)
def test_what_is_no_image_is_named(bad, said, server, images):
    with Client(server.url, "reid", preprocessing="imagenet") as client, pytest.raises(InputError, match=said):
        client.embed_images([*images[:2], bad, *images[2:4]])


def test_no_images_are_refused(server):
    with Client(server.url, "reid", preprocessing="imagenet") as client, pytest.raises(InputError, match="got none"):
        client.embed_images([])


def test_pixels_of_nan_spoil_their_own_row_alone(server, onnx_files, run_local):
    rows = np.random.default_rng(9).normal(size=(16, 3, 8, 4)).astype(np.float32)
    (right,) = run_local(onnx_files["reid"], rows)
    rows[5] = np.nan
    with Client(server.url, "reid") as client:
        got = client.embed(rows)
    assert np.isnan(got[5]).all()
    np.testing.assert_array_equal(np.delete(got, 5, axis=0), np.delete(right, 5, axis=0))


def requests_made(server, model: str) -> int:
    import tritonclient.grpc as triton

    return (
        triton.InferenceServerClient(server.url)
        .get_inference_statistics(model)
        .model_stats[0]
        .inference_stats.success.count
    )


@pytest.mark.parametrize(("rows", "requests"), [(1, 1), (5, 1), (16, 1), (17, 2), (40, 3)])
def test_a_frame_is_one_request_and_more_rows_go_in_full_chunks(rows, requests, server):
    faces = np.random.default_rng(4).integers(0, 256, size=(rows, 6, 6, 3), dtype=np.uint8)
    with Client(server.url, "face") as client:
        assert client.chunk == 16  # on a CPU
        before = requests_made(server, "face")
        assert client.embed(faces).shape == (rows, 4)
    deadline = time.monotonic() + 5  # the server counts a request after it has answered it
    while requests_made(server, "face") - before < requests:
        assert time.monotonic() < deadline
    assert requests_made(server, "face") - before == requests


def test_a_deadline_for_all_requests_together(server):
    rows = np.zeros((16 * 200, 3, 8, 4), np.float32)
    with Client(server.url, "reid") as client, pytest.raises(RequestTimeoutError):
        client.embed(rows, timeout=0.002)


def test_many_calls_are_awaited_at_once(server, images, expected):
    async def ask() -> list[np.ndarray]:
        async with AsyncClient(server.url, "reid", preprocessing="imagenet") as client:
            (one,) = await client.run(np.concatenate([SIZE(images)[:16]]))
            calls = [client.embed_images(images[start : start + 3]) for start in range(0, 21, 3)]
            return [one, *await asyncio.gather(*calls)]

    one, *answers = asyncio.run(ask())
    np.testing.assert_array_equal(one, expected[:16])
    np.testing.assert_allclose(np.concatenate(answers), expected, rtol=1e-5, atol=1e-6)


def test_an_error_reaches_who_awaits_it(server):
    async def ask() -> None:
        async with AsyncClient(server.url, "lookup") as client:
            await client.run(np.array([[99]]))

    with pytest.raises(InputError, match="out of data bounds"):
        asyncio.run(ask())


def test_importing_the_clients_loads_no_torch():
    code = "import sys; from rtool.serving import AsyncClient, Client; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
