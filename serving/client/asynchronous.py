"""`Client` for asyncio.

    async with AsyncClient("127.0.0.1:8001", "osnet_x0_25_b16") as client:
        embeddings = await client.embed_images(crops)

Opening, decoding and packing run in threads, so the event loop is never held up; many calls may be awaited at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

from numpy.typing import NDArray

from ...converters.records.preprocessing import Preprocessing
from ...converters.runtime.triton import Arrays
from .client import Client
from .image_inputs import ImageLike

__all__ = ["AsyncClient"]


class AsyncClient:
    """One model on one server; arguments as of `Client`. Entering `async with` opens the connection."""

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
        self._open = partial(
            Client,
            url,
            model,
            version,
            timeout=timeout,
            preprocessing=preprocessing,
            threads=threads,
            shared_memory=shared_memory,
        )
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        self._client = await asyncio.to_thread(self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.client.close)

    @property
    def client(self) -> Client:
        """The client that does the work: `inputs`, `outputs`, `batch`, `preprocessing`, `transport`.

        Raises:
            RuntimeError: the `async with` block was not entered.
        """
        if self._client is None:
            raise RuntimeError("AsyncClient: enter its `async with` block first")
        return self._client

    async def run(self, *arrays: NDArray[Any], timeout: float | None = None) -> Arrays:
        """As `Client.run`: one request."""
        future = await asyncio.to_thread(partial(self.client.submit, timeout=timeout), *arrays)
        return await asyncio.wrap_future(future)

    async def run_rows(self, *arrays: NDArray[Any], timeout: float | None = None) -> Arrays:
        """As `Client.run_rows`: any number of rows."""
        return await asyncio.to_thread(partial(self.client.run_rows, timeout=timeout), *arrays)

    async def embed(self, rows: NDArray[Any], *, timeout: float | None = None) -> NDArray[Any]:
        """As `Client.embed`: embeddings [N, D] of rows in the layout and dtype of the model's input."""
        return await asyncio.to_thread(self.client.embed, rows, timeout=timeout)

    async def embed_images(self, images: Iterable[ImageLike], *, timeout: float | None = None) -> NDArray[Any]:
        """As `Client.embed_images`: embeddings [N, D] of paths, bytes, images of Pillow or pixels."""
        return await asyncio.to_thread(self.client.embed_images, images, timeout=timeout)
