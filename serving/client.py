"""Send arrays to a model on a running Triton, and get arrays back.

    client = TritonClient("127.0.0.1:8001", "osnet_x0_25_b16")
    (embedding,) = client.run(batch)            # one request
    embeddings = client.embed(crops)            # any number of rows, packed into the batch that the model supports

A model with a fixed batch gets full batches; the last one is padded by repeating its last row. A model with a dynamic
batch gets one row per request, with many requests in flight, which the server's dynamic batcher joins. The protocol is
KServe's Open Inference Protocol, version 2, over gRPC, by tritonclient. Not done here: shared memory, TLS, retries.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters.runtime.triton import Arrays, TritonModel
from ..errors import InputError

__all__ = ["TritonClient", "pad_rows"]

_WINDOW = 32
"""Requests in flight; a full batch can form while another one is computed."""


class TritonClient(TritonModel):
    """One model on one server. `url` is host:port of gRPC; `version` None selects the highest that is ready.

    Safe to use from several threads. `timeout` in seconds applies to every request.
    """

    def run_rows(self, *arrays: NDArray[Any], window: int = _WINDOW) -> Arrays:
        """Outputs [N, ...] for inputs [N, ...] in graph order, N being any number of rows.

        The arrays must have the dtypes of the model's inputs. Rows are sent in full batches or one per request, as the
        module's docstring describes, with at most `window` requests in flight.

        Raises:
            InputError: no rows, different numbers of rows, or dtypes or shapes that the model does not support.
            PlatformError: the server does not answer in time.
        """
        rows = {len(array) for array in arrays}
        if len(rows) != 1 or 0 in rows:
            raise InputError(f"model {self.model!r}: expected inputs with the same number of rows, got {sorted(rows)}")
        if self.max_batch == 0 and self.batch is None:
            return self.run(*arrays)
        size = self.batch or 1
        pending: deque[Future[Arrays]] = deque()
        answers: list[Arrays] = []
        for start in range(0, rows.pop(), size):
            if len(pending) >= window:
                answers.append(pending.popleft().result())
            pending.append(self.submit(*(pad_rows(array[start : start + size], size) for array in arrays)))
        answers.extend(future.result() for future in pending)
        count = len(arrays[0])
        return tuple(np.concatenate(parts)[:count] for parts in zip(*answers, strict=True))

    def embed(self, images: NDArray[Any], *, window: int = _WINDOW) -> NDArray[Any]:
        """Embeddings [N, D], the first output, of images [N, ...] in the layout and dtype of the model's input.

        Nothing is resized or normalised. `window` is the largest number of requests in flight.

        Raises:
            InputError: the model has more than one input, or does not support the images' dtype or shape.
            PlatformError: the server does not answer in time.
        """
        if len(self.inputs) != 1:
            raise InputError(f"model {self.model!r}: embed needs one input, it has {len(self.inputs)}; use run_rows")
        embeddings: NDArray[Any] = self.run_rows(images, window=window)[0]
        return embeddings


def pad_rows(array: NDArray[Any], size: int) -> NDArray[Any]:
    """`array` [N, ...] padded to [size, ...] by repeating its last row: a real row keeps activations in their range.

    An array of `size` or more rows is returned as it is. The dtype is that of `array`.
    """
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing > 0 else array
