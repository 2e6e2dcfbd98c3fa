"""Run a model on a running Triton server: the runner behind the model reference `triton://host:port/model`.

tritonclient is imported on first use. `serving.client` builds the public client on top of this connection.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, PlatformError, RtoolError
from ..records.json_text import parse_json
from ..records.record import TensorSpec
from .calling.address import split_address
from .calling.ahead import ahead
from .calling.causes import Call
from .calling.failures import ServerUnreachableError
from .calling.retrying import retry
from .calling.waiting import announced

if TYPE_CHECKING:
    from tritonclient.utils import InferenceServerException

__all__ = ["DIGESTS_KEY", "Arrays", "Request", "TritonModel", "TritonReference", "TritonRunner", "refuse_weights"]

Arrays = tuple[NDArray[Any], ...]

DIGESTS_KEY = "rtool.sha256"
"""Parameter of a configuration: JSON, from the number of each version to the SHA-256 of its file."""

_IN_FLIGHT = 4
"""Requests of one call on their way at once: enough that the server never waits for the client."""


@dataclass(frozen=True)
class Request:
    """The tensors of one request, and what becomes of the memory that they lie in."""

    tensors: Sequence[Any]
    again: Callable[[], Sequence[Any]]
    """The same, to be sent again, in no memory but their own."""
    finished: Callable[[bool], None]
    """Called once, with whether it succeeded, when the tensors are needed no more."""
    shared: bool = False
    """Whether the server reads them from shared memory."""


class TritonModel:
    """One model on one server. Safe to use from several threads.

    Args:
        url: host:port of the gRPC endpoint.
        model: the name of the model.
        version: None uses the highest version that is ready.
        timeout: seconds that each request may take, retries of transient failures included.

    Raises:
        InputError: `url` is malformed, or the server has no such model or version.
        PlatformError: the server does not answer, or was not ready within `timeout`.
    """

    def __init__(self, url: str, model: str, version: int | None = None, *, timeout: float = 30.0) -> None:
        split_address(url)
        self.url, self.model, self.version, self.timeout = url, model, version, timeout
        self._client = _grpc().InferenceServerClient(url, channel_args=_channel_options())
        self._call = Call(self._client, url, model, self._version, timeout)
        try:
            metadata, config = self._describe()
        except RtoolError:
            self._client.close()
            raise
        # Triton has no empty dims, so an output [N] is served as [N, 1]; callers see the graph's shape [N].
        self._single = {
            entry.name
            for entry in (*config.input, *config.output)
            if entry.HasField("reshape") and not entry.reshape.shape
        }
        self.inputs = tuple(_spec(tensor, self._single) for tensor in metadata.inputs)
        self.outputs = tuple(_spec(tensor, self._single) for tensor in metadata.outputs)
        self.parameters = {key: str(value.string_value) for key, value in config.parameters.items()}
        """Of its configuration; `rtool.preprocessing` states how images are prepared."""
        self.versions = tuple(sorted(int(number) for number in metadata.versions))
        """The versions that were ready when it was opened."""
        self.max_batch = int(config.max_batch_size)
        """Largest batch of a model with dynamic batch; 0 when the batch is fixed."""
        self.backend = str(config.backend or config.platform)
        self.on_cpu = {group.Kind.Name(group.kind) for group in config.instance_group} == {"KIND_CPU"}
        """Whether all its instances run on a CPU."""
        self.instances = sum(
            max(1, group.count) * max(1, len(group.gpus)) for group in config.instance_group if not group.passive
        )
        """How many of it take requests, as its configuration says, which counts them per GPU that it lists."""
        self.batch = _fixed_batch(self.inputs) if self.max_batch == 0 else None
        """The fixed batch; None when it is dynamic."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def pin(self) -> None:
        """Ask from now on for the version that is the highest now, so that all answers are of one version."""
        if self.version is None and self.versions:
            self.version = max(self.versions)
            self._call = replace(self._call, version=self._version)

    def served_digest(self) -> str:
        """The SHA-256 of the file that is served, as its deployment states it, in hexadecimal.

        Raises:
            InputError: it is not stated, so nothing tells this version from another.
        """
        version = self.version if self.version is not None else max(self.versions, default=None)
        try:
            stated = parse_json(self.parameters.get(DIGESTS_KEY, "{}"))[str(version)]
            if re.fullmatch("[0-9a-f]{64}", stated):
                return str(stated)
        except (ValueError, TypeError, KeyError):
            pass
        raise InputError(
            f"{self._call.place}: the server does not state which file it serves as version {version} "
            f"(parameter {DIGESTS_KEY}), so embeddings cannot be kept; publish it again with `rtool deploy`, give the "
            "file it was deployed from, or leave the cache out"
        )

    def run(self, *arrays: NDArray[Any]) -> Arrays:
        """Send one request with `arrays` in graph order and return the outputs in graph order.

        Raises:
            InputError: number, dtype or shape of the arrays does not fit the model, or the server refuses the request.
            ServingError: no answer in time, although stopping, overload and a dead process were waited for; its class
                names the cause (`calling/failures.py`).
        """
        return self.submit(*arrays).result()

    def submit(self, *arrays: NDArray[Any], timeout: float | None = None) -> Future[Arrays]:
        """Like `run`, but return a future at once. `timeout` in seconds, where it is shorter than the model's.

        Raises:
            InputError: number, dtype or shape of the arrays does not fit the model.
        """
        from tritonclient.utils import InferenceServerException

        seconds = self.timeout if timeout is None else min(timeout, self.timeout)
        deadline = time.monotonic() + seconds
        call = replace(self._call, timeout=seconds)
        request = self._request(self._checked(arrays))
        future: Future[Arrays] = Future()
        future.set_running_or_notify_cancel()  # what is sent cannot be cancelled

        def again(error: InferenceServerException) -> None:
            """Runs in a thread of its own: gRPC's thread must not wait for other calls."""
            try:
                tensors = request.again()
                request.finished(False)
                future.set_result(self._arrays(self._retried(tensors, call, error, deadline, shared=request.shared)))
            except Exception as failure:
                future.set_exception(failure)

        def done(result: Any, error: InferenceServerException | None) -> None:
            if error is not None:
                Thread(target=again, args=(error,), daemon=True).start()
                return
            request.finished(True)
            try:
                future.set_result(self._arrays(result))
            except Exception as failure:
                future.set_exception(failure)

        try:
            self._client.async_infer(
                self.model, request.tensors, done, model_version=self._version, client_timeout=seconds
            )
        except InferenceServerException as error:
            request.finished(False)
            raise call.cause(error) from error
        return future

    def _retried(
        self, tensors: Sequence[Any], call: Call, error: InferenceServerException, deadline: float, *, shared: bool
    ) -> Any:
        """The answer to a request that failed, asked again while the cause may pass.

        One that went through shared memory is sent as it is at once: the failure may be of the memory alone.
        """
        from tritonclient.utils import InferenceServerException

        attempt = partial(self._infer, tensors)
        left = deadline - time.monotonic()
        if shared and left > 0:
            try:
                return attempt(left)
            except InferenceServerException as second:
                error = second
        return retry(attempt, call.cause, error, deadline)

    def _request(self, arrays: Sequence[NDArray[Any]]) -> Request:
        tensors = [self.filled_tensor(spec, array) for spec, array in zip(self.inputs, arrays, strict=True)]
        return Request(tensors, lambda: tensors, _nothing)

    def _infer(self, tensors: Sequence[Any], seconds: float) -> Any:
        return self._client.infer(self.model, tensors, model_version=self._version, client_timeout=seconds)

    def _describe(self) -> tuple[Any, Any]:
        """Metadata and configuration of the model; waits for a server that is not ready yet."""
        from tritonclient.utils import InferenceServerException

        def attempt(seconds: float) -> tuple[Any, Any]:
            metadata = self._client.get_model_metadata(self.model, self._version, client_timeout=seconds)
            return metadata, self._client.get_model_config(self.model, self._version, client_timeout=seconds).config

        def cause(error: InferenceServerException) -> RtoolError:
            problem = self._call.cause(error)
            # A server that was never reached is a wrong address more often than one that starts.
            return PlatformError(str(problem)) if isinstance(problem, ServerUnreachableError) else problem

        deadline = time.monotonic() + self.timeout
        try:
            return attempt(self.timeout)
        except InferenceServerException as error:
            with announced(f"{self._call.place} to be ready, {self.timeout:g} s at most"):
                return retry(attempt, cause, error, deadline)

    @property
    def _version(self) -> str:
        return "" if self.version is None else str(self.version)

    def _checked(self, arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        problems = []
        if len(arrays) != len(self.inputs):
            problems.append(f"expected {len(self.inputs)} inputs, got {len(arrays)}")
        for spec, array in zip(self.inputs, arrays, strict=False):
            fits = array.ndim == len(spec.shape) and all(
                not isinstance(want, int) or want == got for want, got in zip(spec.shape, array.shape, strict=True)
            )
            if str(array.dtype) != spec.dtype or not fits:
                wanted = [dim if isinstance(dim, int) else "any" for dim in spec.shape]
                problems.append(
                    f"input {spec.name!r} expected {spec.dtype} {wanted}, got {array.dtype} {list(array.shape)}"
                )
            elif self.max_batch and not 0 < len(array) <= self.max_batch:
                problems.append(f"input {spec.name!r} has {len(array)} rows, the model accepts 1 to {self.max_batch}")
        if problems:
            raise InputError(f"model {self.model!r} on {self.url}: {'; '.join(problems)}")
        return arrays

    def bare_tensor(self, spec: TensorSpec, array: NDArray[Any]) -> Any:
        """Tritonclient's input of this name, shape and dtype, without data."""
        from tritonclient.utils import np_to_triton_dtype

        shape = (len(array), 1) if spec.name in self._single else array.shape
        return _grpc().InferInput(spec.name, list(shape), np_to_triton_dtype(array.dtype))

    def filled_tensor(self, spec: TensorSpec, array: NDArray[Any]) -> Any:
        """Tritonclient's input with a copy of `array`."""
        tensor = self.bare_tensor(spec, array)
        array = array[:, None] if spec.name in self._single else array
        return tensor.set_data_from_numpy(np.ascontiguousarray(array))

    def _arrays(self, result: Any) -> Arrays:
        return tuple(self._array(spec, result) for spec in self.outputs)

    def _array(self, spec: TensorSpec, result: Any) -> NDArray[Any]:
        array: NDArray[Any] = result.as_numpy(spec.name)
        return array[:, 0] if spec.name in self._single else array


@dataclass(frozen=True)
class TritonReference:
    """A model reference of the form `triton://host:port/model[/version]`."""

    url: str
    model: str
    version: int | None

    @classmethod
    def parse(cls, reference: str) -> Self:
        """Parse a reference; without a version, `version` is None.

        >>> TritonReference.parse("triton://localhost:8001/osnet/2")
        TritonReference(url='localhost:8001', model='osnet', version=2)

        Raises:
            InputError: the reference has another form.
        """
        found = re.fullmatch(r"triton://([^/\s]+:\d{1,9})/([A-Za-z0-9._-]+)(?:/([1-9]\d*))?", reference)
        if found is None:
            raise InputError(f"{reference}: expected triton://host:port/model or triton://host:port/model/version")
        url, model, version = found.groups()
        split_address(url)
        return cls(url, model, int(version) if version else None)


class TritonRunner:
    """A model on a Triton server with the interface of `Runner`: name, inputs, outputs, batch, `run`."""

    def __init__(self, model: TritonModel) -> None:
        self.model = model
        self.name = f"triton://{model.url}/{model.model}" + (f"/{model.version}" if model.version else "")
        self.inputs = model.inputs
        self.outputs = model.outputs
        self.batch = model.batch

    @classmethod
    def from_reference(cls, reference: str, *, timeout: float = 30.0) -> Self:
        """Open `triton://host:port/model[/version]`.

        Raises:
            InputError: the reference has another form, or the server has no such model.
            PlatformError: no server answers.
        """
        parsed = TritonReference.parse(reference)
        return cls(TritonModel(parsed.url, parsed.model, parsed.version, timeout=timeout))

    def run(self, *arrays: NDArray[Any]) -> Arrays:
        """All outputs for `arrays` [N, ...], both in graph order; more rows than a request may have go in several.

        Raises:
            InputError: number, dtype or shape of the arrays does not fit the model, or the server refuses a request.
            PlatformError: the server does not answer in time.
        """
        rows = {len(array) if array.ndim else 0 for array in arrays}
        limit = self.model.max_batch
        if limit == 0 or len(rows) != 1 or max(rows) <= limit:
            return self.model.run(*arrays)
        chunks = ([array[start : start + limit] for array in arrays] for start in range(0, max(rows), limit))
        sent = (self.model.submit(*chunk) for chunk in chunks)
        answers = [future.result() for future in ahead(sent, _IN_FLIGHT)]
        return tuple(np.concatenate(parts) for parts in zip(*answers, strict=True))


def _nothing(succeeded: bool) -> None:
    """There is no memory to give back."""


def refuse_weights(reference: str, weights: str | Path | None) -> None:
    """Refuse other weights for a served model.

    Raises:
        InputError: there are some.
    """
    if weights is not None:
        raise InputError(f"{reference}: a served model has its weights; give the .onnx file or bundle with --weights")


def _grpc() -> Any:
    """Tritonclient's gRPC module, imported late because that takes 0.1 s."""
    from tritonclient import grpc

    return grpc


def _channel_options() -> list[tuple[str, int]]:
    """Messages of any size, as tritonclient allows, and a connection that is tried again within a second."""
    largest = 2**31 - 1
    return [
        ("grpc.max_send_message_length", largest),
        ("grpc.max_receive_message_length", largest),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]


def _spec(tensor: Any, single: Collection[str]) -> TensorSpec:
    from tritonclient.utils import triton_to_np_dtype

    dtype = np.dtype(triton_to_np_dtype(tensor.datatype))
    dims = tensor.shape[:1] if tensor.name in single else tensor.shape
    return TensorSpec(tensor.name, dtype.name, tuple(dim if dim >= 0 else None for dim in dims))


def _fixed_batch(inputs: Sequence[TensorSpec]) -> int | None:
    firsts = {spec.shape[0] if spec.shape else None for spec in inputs}
    first = firsts.pop() if len(firsts) == 1 else None
    return first if isinstance(first, int) else None
