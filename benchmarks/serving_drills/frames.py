"""A client that sends frames of several crops: in a closed loop, or on a Poisson schedule, each answer checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameLoad", "Frames", "run_frames"]

_REFUSED_SECONDS = 0.05
"""A client of the closed loop waits so long after an error, so that it does not take the processor from a restart."""

Check = Callable[[str, int, NDArray[Any]], bool]
"""(model, first row, answer) -> whether the answer is right."""


@dataclass
class FrameLoad:
    """What came of it. Latencies in seconds, from the time at which a frame was due."""

    crops: int = 0
    answered: int = 0
    failed: int = 0
    wrong: int = 0
    seconds: float = 0.0
    client_cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def crops_per_second(self) -> float:
        """Real crops that were answered, without padding."""
        return self.crops / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Milliseconds; 0 without answers."""
        return float(np.percentile(self.latencies, percent)) * 1000 if self.latencies else 0.0


@dataclass(frozen=True)
class Frames:
    """What is sent to `models` in turn: frames of `sizes[i]` crops of `images`; with `pad`, padded to so many rows."""

    models: Sequence[str]
    images: NDArray[Any]
    sizes: Sequence[int]
    input: str = "images"
    output: str = "embedding"
    pad: int = 0


def run_frames(
    url: str,
    frames: Frames,
    *,
    seconds: float,
    concurrency: int = 0,
    rate: float = 0.0,
    warm: float = 0.5,
    check: Check | None = None,
    seed: int = 0,
) -> FrameLoad:
    """Send frames for `seconds` (after `warm`): `concurrency` in flight, or `rate` per second on a Poisson schedule."""
    return asyncio.run(_Run(url, frames, check, seed).go(seconds, concurrency, rate, warm))


class _Run:
    def __init__(self, url: str, frames: Frames, check: Check | None, seed: int) -> None:
        self._url, self._frames, self._check = url, frames, check
        self._random = np.random.default_rng(seed)
        self._load = FrameLoad()
        self._made: dict[tuple[int, int], Any] = {}
        self._start = self._end = 0.0

    async def go(self, seconds: float, concurrency: int, rate: float, warm: float) -> FrameLoad:
        import tritonclient.grpc.aio as triton

        async with triton.InferenceServerClient(self._url) as client:
            self._start = time.perf_counter() + warm
            self._end = self._start + seconds
            cpu, began = time.process_time(), time.perf_counter()
            if concurrency:
                await asyncio.gather(*(self._keep(client, index, concurrency) for index in range(concurrency)))
            else:
                await self._schedule(client, rate)
            wall = time.perf_counter() - began
            self._load.client_cpu = (time.process_time() - cpu) / wall * seconds
        self._load.seconds = seconds
        return self._load

    async def _keep(self, client: Any, index: int, step: int) -> None:
        while time.perf_counter() < self._end:
            failed = self._load.failed
            await self._frame(client, index, time.perf_counter())
            if self._load.failed > failed:
                await asyncio.sleep(_REFUSED_SECONDS)
            index += step

    async def _schedule(self, client: Any, rate: float) -> None:
        due, index = time.perf_counter(), 0
        pending: set[asyncio.Task[None]] = set()
        while (due := due + float(self._random.exponential(1 / rate))) < self._end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(self._frame(client, index, due))
            pending.add(task)
            task.add_done_callback(pending.discard)
            index += 1
        await asyncio.gather(*pending)

    async def _frame(self, client: Any, index: int, due: float) -> None:
        frames, load = self._frames, self._load
        model = frames.models[index % len(frames.models)]
        count = frames.sizes[index % len(frames.sizes)]
        first = (index * 7) % (len(frames.images) - count + 1)
        try:
            result = await client.infer(model, [self._tensor(first, count)], client_timeout=30)
            answer = result.as_numpy(frames.output)[:count]
        except Exception as error:
            load.failed += 1
            text = f"{model}: {str(error)[:120]}"
            load.errors[text] = load.errors.get(text, 0) + 1
            return
        done = time.perf_counter()
        if self._check is not None and not self._check(model, first, answer):
            load.wrong += 1
        if self._start <= done <= self._end:
            load.answered += 1
            load.crops += count
            load.latencies.append(done - due)

    def _tensor(self, first: int, count: int) -> Any:
        """The request's tensor, made once per (row, size): building it is not part of what is measured."""
        import tritonclient.grpc as triton
        from tritonclient.utils import np_to_triton_dtype

        if (first, count) not in self._made:
            rows = self._frames.images[first : first + count]
            missing = max(0, self._frames.pad - count)
            rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
            tensor = triton.InferInput(self._frames.input, list(rows.shape), np_to_triton_dtype(rows.dtype))
            tensor.set_data_from_numpy(np.ascontiguousarray(rows))
            self._made[first, count] = tensor
        return self._made[first, count]
