"""Where the time of a request goes: `rtool bench serving --explain`.

The whole is the client's clock, from the send to the answer; the server's parts are its own statistics, and the rest is
named by subtraction, so that the parts add up to the whole:

    client          building, serialising and reading: measured alone, on the same tensors
    network, gRPC   the whole, less the client and the server
    queue           waiting in the server for an instance, or for others to join
    copies          the server's copies into and out of the back end
    model           the runtime's own computation (rtool's back end counts it)
    our backend     Python around it: tensors in and out, joining and cutting rows
    other process   from the server's core to the back end's process and back
    server          what is left of the server's own time

Without rtool's back end, or without the metrics port, the three parts of the computation are one line.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .server_statistics import ServerTime

__all__ = ["Share", "client_milliseconds", "explain"]

_REPEATS = 21


@dataclass(frozen=True)
class Share:
    """One part of the mean request: milliseconds, and its share of the whole."""

    part: str
    ms: float
    share: float


def explain(whole: float, client: float, server: ServerTime) -> tuple[Share, ...]:
    """The parts of a mean request of `whole` milliseconds, `client` of which the client itself needs."""
    parts = [("client", client), ("network, gRPC", whole - client - server.total), ("queue", server.queue)]
    parts.append(("copies", server.copies))
    if server.execute is None or server.session is None:
        parts.append(("model and its process", server.compute))
    else:
        parts += [("model", server.session), ("our backend", server.execute - server.session)]
        parts.append(("other process", server.compute - server.execute))
    parts.append(("server", server.total - server.queue - server.copies - server.compute))
    return tuple(Share(name, ms, ms / whole if whole else 0.0) for name, ms in parts)


def client_milliseconds(url: str, model: str, names: Sequence[str], arrays: Sequence[NDArray[np.generic]]) -> float:
    """What one request costs the client without the network: the median of 21, in milliseconds.

    Raises:
        PlatformError: the server does not answer.
    """
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype

    from ..errors import PlatformError

    def tensors() -> list[Any]:
        made = []
        for name, array in zip(names, arrays, strict=True):
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            made.append(tensor)
        return made

    try:
        with triton.InferenceServerClient(url) as client:
            answer = client.infer(model, tensors()).get_response()
    except InferenceServerException as error:
        raise PlatformError(f"triton://{url}/{model}: {error.message()}") from error
    request = _request(model, tensors())
    content, kind = answer.SerializeToString(), type(answer)
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        tensors()
        request.SerializeToString()
        result = triton.InferResult(kind.FromString(content))
        for output in answer.outputs:
            result.as_numpy(output.name)
        seconds.append(time.perf_counter() - began)
    return median(seconds) * 1000


def _request(model: str, tensors: Sequence[Any]) -> Any:
    """The message that tritonclient sends for these tensors."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model)
    for tensor in tensors:
        request.inputs.append(tensor._get_tensor())
        request.raw_input_contents.append(tensor._get_content())
    return request
