"""Load a version on a running server, wait until it is ready, and compare its outputs with ONNX Runtime's.

Triton loads the new version before it unloads the old one, and keeps the old one when the new one fails to load.
Clients that name no version get the highest that is ready, so a version is tried under another name first
(`candidate.py`). The requests are those of Triton's model repository extension of the KServe v2 protocol.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from ....converters.runtime.calling.access_key import grpc_headers
from ....converters.runtime.calling.causes import Call
from ....converters.runtime.calling.failures import BackendFailedError, ServingError
from ....converters.runtime.calling.waiting import announced
from ....converters.runtime.judging import judge, unknown
from ....converters.runtime.nonsense import find_nonsense
from ....converters.runtime.probes.open_sizes import closed_sizes
from ....converters.runtime.probes.probing import probe_inputs
from ....errors import GateError, InputError, PlatformError, RtoolError
from ...client.client import TritonClient
from ...repository.config_plan import device_of
from ...repository.deployed import newest_served
from ...repository.graph_signature import GraphSignature
from ...repository.integrity import check_unchanged
from ...repository.model_config import ModelConfig, intra_op_threads, read_config, target_model
from ...repository.repository import CANDIDATE_PREFIX, ModelFolder
from ...repository.signatures.reading import constant_outputs, read_signature
from ...repository.signatures.torch_configured import as_configured
from ...repository.warmup import example_array
from .golden import exact_golden_outputs, golden_outputs, golden_probabilities

__all__ = [
    "check_served",
    "load_on_server",
    "loaded_candidates",
    "refused_on_server",
    "serve_version",
    "unload_from_server",
    "wait_version_ready",
]

_LOAD_SECONDS = 120.0
_UNLOAD_SECONDS = 30.0
_ASK_SECONDS = 5.0
_POLL_SECONDS = 0.1
_CPU_TOLERANCE = 1e-5
_GPU_TOLERANCE = 1e-2


def load_on_server(url: str, name: str, *, timeout: float = _LOAD_SECONDS) -> None:
    """Ask the server to load `name` in its present state in the repository, within `timeout` seconds.

    Raises:
        InputError: the server refuses, e.g. because it was not started with `--control explicit`.
        PlatformError: no server answers.
    """
    client = triton.InferenceServerClient(url)
    try:
        with announced(f"{url} to load {name!r}, {timeout:g} s at most"):
            client.load_model(name, headers=dict(grpc_headers(url)), client_timeout=timeout)
    except InferenceServerException as error:
        raise _load_problem(client, url, name, timeout, error) from error
    finally:
        client.close()


def _load_problem(client: Any, url: str, name: str, timeout: float, error: InferenceServerException) -> RtoolError:
    """Why a model was not loaded, by status and server state."""
    uncontrolled = "explicit" in error.message()  # --control none or poll, which Triton reports as UNAVAILABLE
    problem = Call(client, url, name, timeout=timeout, control=True).cause(error) if not uncontrolled else None
    if isinstance(problem, ServingError) and not isinstance(problem, BackendFailedError):
        return problem
    return InputError(f"{url}: cannot load {name!r}: {error.message()}{_way_out(error.message())}")


def _way_out(message: str) -> str:
    if "explicit" in message:
        return "; start it with `rtool serve --control explicit`"
    if "failed to poll" in message:
        return "; does this server read another repository? Give the one that it was started with"
    return ""


def unload_from_server(url: str, name: str, *, timeout: float = 0.0) -> None:
    """Ask the server to unload `name`, and wait up to `timeout` seconds until it has given its memory back.

    Errors (no server, no such model) are ignored.
    """
    client = triton.InferenceServerClient(url)
    deadline, headers = time.monotonic() + timeout, dict(grpc_headers(url))
    try:
        with suppress(InferenceServerException):
            client.unload_model(name, headers=headers, client_timeout=_UNLOAD_SECONDS)
            while time.monotonic() < deadline and _is_held(client, name, headers):
                time.sleep(_POLL_SECONDS)
    finally:
        client.close()


def _is_held(client: Any, name: str, headers: dict[str, str]) -> bool:
    entries = client.get_model_repository_index(headers=headers, client_timeout=_ASK_SECONDS).models
    return any(entry.name == name and entry.state not in ("", "UNAVAILABLE") for entry in entries)


def refused_on_server(url: str, name: str, version: int) -> bool:
    """Whether the server remembers that it refused to load this version; False where it does not answer."""
    client = triton.InferenceServerClient(url)
    try:
        entries = client.get_model_repository_index(headers=dict(grpc_headers(url)), client_timeout=_ASK_SECONDS).models
    except InferenceServerException:
        return False
    finally:
        client.close()
    return any(
        (entry.name, entry.version, entry.state) == (name, str(version), "UNAVAILABLE") and entry.reason != "unloaded"
        for entry in entries
    )


def loaded_candidates(url: str) -> tuple[str, ...]:
    """Names of candidates that the server at `url` holds in memory; none where it does not answer or forbids to ask."""
    client = triton.InferenceServerClient(url)
    try:
        entries = client.get_model_repository_index(headers=dict(grpc_headers(url)), client_timeout=_ASK_SECONDS).models
    except InferenceServerException:
        return ()
    finally:
        client.close()
    held = {entry.name for entry in entries if entry.state not in ("", "UNAVAILABLE")}
    return tuple(sorted(name for name in held if name.startswith(CANDIDATE_PREFIX)))


def wait_version_ready(url: str, name: str, version: int, *, timeout: float = _LOAD_SECONDS) -> None:
    """Wait until one version is ready.

    Raises:
        PlatformError: the server does not answer, or the version is not ready within `timeout` seconds.
    """
    client = triton.InferenceServerClient(url)
    deadline = time.monotonic() + timeout
    try:
        while not client.is_model_ready(name, str(version), client_timeout=timeout):
            if time.monotonic() > deadline:
                raise PlatformError(f"{url}: {name!r} version {version} was not ready within {timeout:g} s")
            time.sleep(_POLL_SECONDS)
    except InferenceServerException as error:
        raise PlatformError(f"{url}: the server does not answer ({error.message()})") from error
    finally:
        client.close()


def check_served(url: str, folder: ModelFolder, version: int) -> None:
    """Compare one served version with its file in this process, on example rows at the smallest and largest batch.

    With some engines, float16 is wrong only from a certain batch on, so a single row is not enough.

    A packer is compared with the file of its target. Open axes beside the batch get the sizes of `closed_sizes`.

    Raises:
        GateError: the outputs differ by more than 1e-5 (CPU) or 1e-2 (GPU), relative to the largest, have NaN or
            infinite values, or are the same for eight different inputs.
        InputError: the version's file is not the one that was published.
    """
    check_unchanged(folder, version)
    config = read_config(folder.config_path)
    model = _golden_file(folder, version, config)
    if model is None:
        return
    signature = as_configured(read_signature(model), config)
    constant = constant_outputs(signature)
    threads = intra_op_threads(config)
    on_gpu = device_of(config) == "gpu"
    tolerance = _GPU_TOLERANCE if on_gpu else _CPU_TOLERANCE
    allowed_for = "the GPU's kernels may round to TF32" if on_gpu else "the same graph in the same runtime"
    with TritonClient(url, folder.name, version) as client:
        outputs = [spec.name for spec in client.outputs]
        for rows in sorted({_rows_of(signature, client)} if signature.batch is not None else {1, client.max_batch}):
            arrays = _example_rows(client, signature, rows)
            served = client.run(*(arrays[spec.name] for spec in client.inputs))
            nonsense = find_nonsense(
                client.run_rows, [arrays[spec.name] for spec in client.inputs], served, outputs, constant=constant
            )
            if nonsense:
                raise GateError(
                    f"{url}: {folder.name!r} version {version} gives outputs of no use at {rows} rows: "
                    f"{'; '.join(nonsense)}"
                )
            verdict = judge(
                golden_outputs(signature, arrays, threads=threads, outputs=outputs),
                served,
                tolerance,
                exact_reference=partial(exact_golden_outputs, signature, arrays, outputs),
                exact_candidate=unknown,
                probabilities=golden_probabilities(signature, outputs),
            )
            if not verdict.agrees:
                error, why = verdict.parity.max_rel, f"; {verdict.reason}" if verdict.reason else ""
                raise GateError(
                    f"{url}: {folder.name!r} version {version} differs from its file: max relative error {error:.3g} > "
                    f"{tolerance:g} at {rows} rows{why}; tolerance: {allowed_for}"
                )


def _golden_file(folder: ModelFolder, version: int, config: ModelConfig) -> Path | None:
    """The file whose outputs a version must reproduce: its own, or that of a packer's target; None for other models."""
    if folder.model_path(version).is_file():
        return folder.model_path(version)
    name = target_model(config)
    if name is None:
        return None
    target = ModelFolder(folder.path.parent / name)
    served = newest_served(target)
    return target.model_path(served) if served is not None and target.model_path(served).is_file() else None


def _rows_of(signature: GraphSignature, client: TritonClient) -> int:
    """The fixed batch; that of a packer's target is the packer's largest."""
    return signature.batch or client.batch or client.max_batch


def _example_rows(client: TritonClient, signature: GraphSignature, rows: int) -> dict[str, NDArray[Any]]:
    if any(-1 in tensor.dims[1:] for tensor in signature.inputs):
        probes = probe_inputs(closed_sizes(client.inputs), rows)
        return {spec.name: array for spec, array in zip(client.inputs, probes, strict=True)}
    return {tensor.name: example_array(tensor, rows) for tensor in signature.inputs}


def serve_version(url: str, folder: ModelFolder, version: int) -> None:
    """Load a version, wait for it and compare its outputs with those of its file.

    Raises:
        GateError: the outputs differ.
        InputError: the server refuses to load the model.
        PlatformError: no server answers, or not in time.
    """
    load_on_server(url, folder.name)
    wait_version_ready(url, folder.name, version)
    check_served(url, folder, version)
