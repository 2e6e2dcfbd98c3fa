"""Send arrays to a model on a running Triton, and get arrays back.

    client = TritonClient("127.0.0.1:8001", "osnet_x0_25_b16")
    (embedding,) = client.run(batch)            # one request
    embeddings = client.embed(crops)            # any number of rows, packed to the batch that the model supports

A model with a fixed batch gets full batches; the last one is padded by repeating its last row. A model with a dynamic
batch gets one row per request, many in flight, which the server's dynamic batcher joins. Not done here: shared
memory, TLS, retries.
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
"""Requests in flight; twice the largest batch and more keeps the batcher fed."""


class TritonClient(TritonModel):
    """One model on one server. `url` is host:port of gRPC; `version` None means the highest that is ready.

    Safe to use from several threads. `timeout` in seconds bounds every request.
    """

    def run_rows(self, *arrays: NDArray[Any], window: int = _WINDOW) -> Arrays:
        """Outputs for any number of rows (axis 0), sent as the model likes it; see the module's text.

        Raises:
            InputError: no rows, or they do not fit the model.
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
        """Embeddings [N, D] of images [N, ...] already in the model's own layout and type; the first output.

        Raises:
            InputError: the model takes more than one input, or the images do not fit it.
        """
        if len(self.inputs) != 1:
            raise InputError(f"model {self.model!r}: embed needs one input, it has {len(self.inputs)}; use run_rows")
        embeddings: NDArray[Any] = self.run_rows(images, window=window)[0]
        return embeddings


def pad_rows(array: NDArray[Any], size: int) -> NDArray[Any]:
    """`array` with its last row repeated up to `size` rows: a real row, so that no activation is out of range."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing > 0 else array
