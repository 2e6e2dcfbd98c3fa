"""Embed images, or send arrays, with a model on a running Triton.

    with Client("127.0.0.1:8001", "osnet_x0_25_b16") as client:
        embeddings = client.embed_images(["a.jpg", "b.jpg"])    # decoded, resized and normalised as the server states
        embeddings = client.embed(crops)                        # rows in the layout and dtype of the model's input
        (embedding,) = client.run(batch)                        # one request

Shapes, dtypes, batch and preprocessing come from the server. What fits into one request travels as one: a frame with
its crops is one request. Longer inputs go in full chunks: the fixed batch, padded at the end by repeating the last row,
or of a dynamic batch 16 rows on a CPU and the largest batch elsewhere (measured: one row per request costs twice the
processor time, and more than 16 rows on a CPU are slower per row). Several requests are on their way, answers are in
order. A failure that may pass (a server that starts, a full queue) is retried within the deadline.

On this machine inputs go through shared memory where the server allows it (`shared_slots.py`). The protocol is
KServe's Open Inference Protocol, version 2, over gRPC, by tritonclient. torch is not imported. Not done here: TLS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...converters.preprocessing.decision import decide_preprocessing
from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.calling.ahead import ahead
from ...converters.runtime.triton import Arrays, Request, TritonModel, TritonRunner
from ...errors import InputError, PlatformError
from ...finetune.embedding.embedders import evidence_of
from ...finetune.processes.cores import available_cores
from .image_inputs import ImageLike, pixels_of
from .shared_slots import SharedSlots, Slot

__all__ = ["Client", "TritonClient", "pad_rows"]

_WINDOW = 8
"""Requests on their way at once; a full batch can form while another one is computed."""
_CPU_ROWS = 16
"""Rows of a chunk on a CPU, where larger batches are slower per row."""


class Client(TritonModel):
    """One model on one server. Safe to use from several threads.

    Args:
        url: host:port of the gRPC endpoint.
        model: The name of the model.
        version: None uses the highest version that is ready.
        timeout: Seconds that each request may take, retries included.
        preprocessing: How images are prepared, or what `--preprocessing` takes; by default as the server states.
        threads: That decode images; by default one per core.
        shared_memory: "auto" uses it where the server allows it, True insists, False never does.

    Raises:
        InputError: `url` is malformed, or the server has no such model or version.
        PlatformError: the server does not answer, or refuses shared memory that was insisted on.
    """

    def __init__(
        self,
        url: str,
        model: str,
        version: int | None = None,
        *,
        timeout: float = 30.0,
        preprocessing: str | Preprocessing | None = None,
        threads: int | None = None,
        shared_memory: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(url, model, version, timeout=timeout)
        self._asked = preprocessing
        self._stated: Preprocessing | None = None
        self._threads = threads or available_cores()
        self._pool = ThreadPoolExecutor(self._threads, f"{model}-images")
        self.chunk = self.batch or self._chunk()
        """Rows of a full request; 1 for a model without a batch."""
        self._slots = self._shared_slots(shared_memory)

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared: as was asked for, else as the server states.

        Raises:
            InputError: neither; it is never guessed.
        """
        if self._stated is None:
            runner = TritonRunner(self)
            self._stated = decide_preprocessing(evidence_of(runner.name, runner), self._asked).preprocessing
        return self._stated

    @property
    def transport(self) -> str:
        """How inputs travel: "shared memory", or "gRPC" with the reason."""
        if self._slots is None:
            return "gRPC: shared memory was not asked for, or rows have no fixed size"
        return f"gRPC: {self._slots.refused}" if self._slots.refused else "shared memory"

    def close(self) -> None:
        """Close the connection; answers that are still awaited are lost."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._slots is not None:
            self._slots.close()
        super().close()

    def run_rows(self, *arrays: NDArray[Any], window: int = _WINDOW, timeout: float | None = None) -> Arrays:
        """Outputs [N, ...] for inputs [N, ...] in graph order, N being any number of rows.

        The arrays must have the dtypes of the model's inputs. Rows travel as the module's docstring describes, with at
        most `window` requests on their way. `timeout` in seconds is for all of them together; None sets none.

        Raises:
            InputError: no rows, different numbers of rows, `window` below 1, or dtypes or shapes that the model lacks.
            PlatformError: the server does not answer in time.
        """
        rows = {len(array) if array.ndim else 0 for array in arrays}
        if len(rows) != 1 or 0 in rows:
            raise InputError(f"model {self.model!r}: expected inputs with the same number of rows, got {sorted(rows)}")
        if window < 1:
            raise InputError(f"model {self.model!r}: expected a window of 1 request or more, got {window}")
        if self.max_batch == 0 and self.batch is None:
            return self.submit(*arrays, timeout=timeout).result()
        count, left = rows.pop(), _deadline(timeout)
        starts = range(0, count, self.chunk)
        sent = (self._submit_chunk([array[start : start + self.chunk] for array in arrays], left) for start in starts)
        answers = [future.result() for future in ahead(sent, window, self._left(window))]
        return tuple(np.concatenate(parts)[:count] for parts in zip(*answers, strict=True))

    def embed(self, rows: NDArray[Any], *, window: int = _WINDOW, timeout: float | None = None) -> NDArray[Any]:
        """Embeddings [N, D], the first output, of rows [N, ...] in the layout and dtype of the model's input.

        Nothing is resized or normalised. A row of NaN gives NaN in its own embedding alone. See `run_rows`.

        Raises:
            InputError: the model has more than one input, or does not support the rows' dtype or shape.
            PlatformError: the server does not answer in time.
        """
        self._check_one_input()
        embeddings: NDArray[Any] = self.run_rows(rows, window=window, timeout=timeout)[0]
        return embeddings

    def embed_images(self, images: Iterable[ImageLike], *, timeout: float | None = None) -> NDArray[Any]:
        """Embeddings [N, D], in the order of the images.

        Args:
            images: Paths, bytes of image files, images of Pillow, or RGB pixels uint8 [H, W, 3].
            timeout: Seconds for all of them together; None sets none.

        Raises:
            InputError: there is no image, one cannot be decoded (by name), or the server states no preprocessing.
            PlatformError: the server does not answer in time.
        """
        parts = list(self.stream_images(images, timeout=timeout))
        if not parts:
            raise InputError(f"model {self.model!r}: expected images, got none")
        return np.concatenate(parts)

    def stream_images(self, images: Iterable[ImageLike], *, timeout: float | None = None) -> Iterator[NDArray[Any]]:
        """As `embed_images`, chunk by chunk [n, D] while images arrive, for a video or a long list."""
        self._check_one_input()
        preprocessing, left = self.preprocessing, _deadline(timeout)
        numbered = enumerate(images)
        chunks = iter(lambda: list(islice(numbered, self.chunk)), [])
        prepared = (self._pool.submit(self._prepare, chunk, preprocessing) for chunk in chunks)
        sent = (
            (len(rows), self._submit_chunk([rows], left))
            for rows in (future.result() for future in ahead(prepared, max(_WINDOW, self._threads)))
        )
        for count, answer in ahead(sent, _WINDOW, self._left(_WINDOW)):
            yield answer.result()[0][:count]

    def _prepare(self, images: Sequence[tuple[int, ImageLike]], preprocessing: Preprocessing) -> NDArray[Any]:
        """Rows of the model's input; uint8 where its graph normalises the pixels itself."""
        pixels = np.stack([pixels_of(image, preprocessing, number) for number, image in images])
        dtype = self.inputs[0].dtype
        return (pixels if _takes_pixels(dtype, preprocessing) else preprocessing.normalise(pixels)).astype(
            dtype, copy=False
        )

    def _submit_chunk(self, arrays: Sequence[NDArray[Any]], left: Callable[[], float | None]) -> Future[Arrays]:
        fixed = self.batch or 0
        return self.submit(*(pad_rows(array, fixed) for array in arrays), timeout=left())

    def _check_one_input(self) -> None:
        if len(self.inputs) != 1:
            raise InputError(f"model {self.model!r}: embed needs one input, it has {len(self.inputs)}; use run_rows")

    def _left(self, window: int) -> int:
        """How many requests of `window` are unanswered when more are sent.

        Where requests go through shared memory half of them, though two for each instance: sent one by one, each
        takes one of the server's cores at the moment when it turns from one to the next. Elsewhere all but one.
        """
        shared = self._slots is not None and not self._slots.refused
        return max(window // 2, 2 * self.instances) if shared else window - 1

    def _chunk(self) -> int:
        is_packer = "TARGET_MODEL" in self.parameters
        return max(1, min(self.max_batch, _CPU_ROWS) if self.on_cpu and not is_packer else self.max_batch)

    def _shared_slots(self, wanted: bool | Literal["auto"]) -> SharedSlots | None:
        row = sum(_row_bytes(spec.dtype, spec.shape[1:]) for spec in self.inputs)
        if wanted is False or not row:
            return None
        slots = SharedSlots(self._client, self.url, slot_bytes=row * self.chunk, slots=2 * _WINDOW)
        if wanted is True:
            first = slots.take()
            if first is None:
                super().close()
                raise PlatformError(f"{self._call.place}: {slots.refused}; start it with --allow-client-shm=true")
            first.release()
        return slots

    def _request(self, arrays: Sequence[NDArray[Any]]) -> Request:
        """The tensors of a request, in shared memory where there is a slot that holds them."""
        size = sum(array.nbytes for array in arrays)
        slot = self._slots.take() if self._slots is not None and size <= self._slots.slot_bytes else None
        if slot is None:
            return super()._request(arrays)
        return _shared_request(self, slot, arrays)


def pad_rows(array: NDArray[Any], size: int) -> NDArray[Any]:
    """`array` [N, ...] padded to [size, ...] by repeating its last row: a real row keeps activations in their range.

    An array of `size` or more rows is returned as it is. The dtype is that of `array`.
    """
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing > 0 else array


def _shared_request(client: TritonModel, slot: Slot, arrays: Sequence[NDArray[Any]]) -> Request:
    """The inputs copied into `slot`; sent again, they travel as copies of what is there."""
    tensors, places = [], []
    offset = 0
    for spec, array in zip(client.inputs, arrays, strict=True):
        np.frombuffer(slot.memory, array.dtype, array.size, offset).reshape(array.shape)[...] = array
        tensor = client.bare_tensor(spec, array)
        tensor.set_shared_memory(slot.name, array.nbytes, slot.offset + offset)
        tensors.append(tensor)
        places.append((spec, array.dtype, array.shape, offset))
        offset += array.nbytes

    def plain() -> list[Any]:
        return [
            client.filled_tensor(spec, np.frombuffer(slot.memory, dtype, prod(shape), place).reshape(shape))
            for spec, dtype, shape, place in places
        ]

    def finished(succeeded: bool) -> None:
        slot.release() if succeeded else slot.abandon()

    return Request(tensors, plain, finished, shared=True)


def _takes_pixels(dtype: str, preprocessing: Preprocessing) -> bool:
    """Whether the graph takes pixels as they are decoded, so that normalising would change nothing."""
    as_they_are = not any(preprocessing.mean) and all(deviation == 1 for deviation in preprocessing.std)
    return dtype == "uint8" and as_they_are and (preprocessing.layout, preprocessing.channel_order) == ("nhwc", "rgb")


def _row_bytes(dtype: str, shape: Sequence[int | str | None]) -> int:
    """Bytes of one row; 0 where its size is not fixed, or it is not an array of numbers."""
    sizes = [size for size in shape if isinstance(size, int)]
    kind = np.dtype(dtype)
    return 0 if len(sizes) < len(shape) or kind.hasobject else kind.itemsize * prod(sizes)


def _deadline(timeout: float | None) -> Callable[[], float | None]:
    """The seconds that are left of `timeout`, at each call; None where there is no deadline."""
    end = None if timeout is None else time.monotonic() + timeout
    return lambda: None if end is None else max(end - time.monotonic(), 1e-3)


TritonClient = Client
"""The same class by its earlier name."""
