"""Bring a published version to a running server: load it, wait until it is ready, compare it with ONNX Runtime.

Triton loads the new version before it lets go of the old one, and keeps the old one when the new one fails to load.
Clients that name no version get the highest that is ready. Going back is the publisher's business.
"""

from __future__ import annotations

import time
from contextlib import suppress

from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from ...converters.runtime.parity import assert_parity
from ...errors import InputError, PlatformError
from ..client import TritonClient
from ..repository.config_plan import device_of
from ..repository.golden import golden_outputs
from ..repository.graph_signature import read_signature
from ..repository.model_config import intra_op_threads, read_config
from ..repository.repository import ModelFolder
from ..repository.warmup import example_array

__all__ = ["check_served", "load_on_server", "serve_version", "unload_from_server", "wait_version_ready"]

_LOAD_SECONDS = 120.0
_POLL_SECONDS = 0.1
_CPU_TOLERANCE = 1e-5
_GPU_TOLERANCE = 1e-2


def load_on_server(url: str, name: str, *, timeout: float = _LOAD_SECONDS) -> None:
    """Ask the server to load `name` as its repository has it now.

    Raises:
        InputError: the server refuses, e.g. because it was not started with `--control explicit`.
        PlatformError: no server answers.
    """
    client = triton.InferenceServerClient(url)
    try:
        client.load_model(name, client_timeout=timeout)
    except InferenceServerException as error:
        if "UNAVAILABLE" in str(error.status()):
            raise PlatformError(f"{url}: the server does not answer ({error.message()}); start it first") from error
        way_out = "; start it with `rtool serve --control explicit`" if "explicit" in error.message() else ""
        raise InputError(f"{url}: cannot load {name!r}: {error.message()}{way_out}") from error
    finally:
        client.close()


def unload_from_server(url: str, name: str) -> None:
    """Ask the server to drop `name`; a server that is gone or does not know it is left alone."""
    client = triton.InferenceServerClient(url)
    try:
        with suppress(InferenceServerException):
            client.unload_model(name)
    finally:
        client.close()


def wait_version_ready(url: str, name: str, version: int, *, timeout: float = _LOAD_SECONDS) -> None:
    """Wait until one version answers.

    Raises:
        PlatformError: it does not within `timeout` seconds.
    """
    client = triton.InferenceServerClient(url)
    deadline = time.monotonic() + timeout
    try:
        while not client.is_model_ready(name, str(version)):
            if time.monotonic() > deadline:
                raise PlatformError(f"{url}: {name!r} version {version} was not ready within {timeout:g} s")
            time.sleep(_POLL_SECONDS)
    except InferenceServerException as error:
        raise PlatformError(f"{url}: the server does not answer ({error.message()})") from error
    finally:
        client.close()


def check_served(url: str, folder: ModelFolder, version: int) -> None:
    """Compare one served version with in-process ONNX Runtime on example rows, at the smallest and the largest batch.

    Half precision on some engines is wrong only from a certain batch on, so a single row proves little.

    Raises:
        GateError: the outputs differ by more than 1e-5 (CPU) or 1e-2 (GPU), relative to the largest.
        InputError: the inputs leave more than the batch open, so that there are no example rows.
    """
    model = folder.model_path(version)
    signature = read_signature(model)
    if any(-1 in tensor.dims[1:] for tensor in signature.inputs):
        raise InputError(f"{model}: its inputs leave more than the batch open, so there are no example rows to compare")
    config = read_config(folder.config_path)
    threads = intra_op_threads(config)
    on_gpu = device_of(config) == "gpu"
    with TritonClient(url, folder.name, version) as client:
        outputs = [spec.name for spec in client.outputs]
        for rows in {client.batch} if client.batch is not None else {1, client.max_batch}:
            arrays = {tensor.name: example_array(tensor, rows) for tensor in signature.inputs}
            assert_parity(
                golden_outputs(model, arrays, threads=threads, outputs=outputs),
                client.run(*(arrays[spec.name] for spec in client.inputs)),
                max_rel=_GPU_TOLERANCE if on_gpu else _CPU_TOLERANCE,
                reason="the GPU's kernels may round to TF32" if on_gpu else "the same graph in the same runtime",
            )


def serve_version(url: str, folder: ModelFolder, version: int) -> None:
    """Load, wait and compare; a packer has no weights to compare with and is only loaded.

    Raises:
        GateError: the outputs differ.
        InputError: the server refuses to load the model.
        PlatformError: no server answers, or not in time.
    """
    load_on_server(url, folder.name)
    wait_version_ready(url, folder.name, version)
    if folder.model_path(version).is_file():
        check_served(url, folder, version)
