"""`rtool bench serving URL MODEL`: latency and throughput of a model on a running Triton.

There are two kinds of load. Closed loop: `concurrency` requests are always in flight, which measures the saturation
throughput. Open loop: requests are due on a Poisson schedule; besides the latency from the actual send, the report has
the latency from the time at which a request was *due*, so that requests delayed by a busy client count in full (the
method of wrk2 against coordinated omission). The client also measures itself: when it sends late or uses more than
80 % of a core, the report is marked `client_bound`.

Only requests that end inside a window count. A run is stable when throughput and mean latency of its last three windows
agree within 10 %.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..converters.records.record import TensorSpec
from ..converters.runtime.triton import TritonRunner
from ..errors import InputError, PlatformError
from ..serving.service.records import services
from .machine import describe_machine
from .references import random_inputs
from .request_time import Share, client_milliseconds, explain
from .server_statistics import ServerTime, server_time, statistics

__all__ = ["LoadReport", "serving"]

_STABLE = 1.10
_WINDOWS = 3


@dataclass(frozen=True)
class _Sample:
    """One answered request; times in seconds of `time.perf_counter`."""

    due: float
    sent: float
    done: float
    ok: bool


@dataclass(frozen=True)
class LoadReport:
    """Figures of the last three windows.

    `p50` to `p99` are latencies from the send, `sched_*` from the due time, `server_*` means per request by the
    server's own statistics, all in milliseconds. A crop is one row. `mean_batch` is rows per execution on the server.
    """

    url: str
    model: str
    mode: str
    rows_per_request: int
    requests: int
    errors: int
    requests_per_second: float
    crops_per_second: float
    p50: float
    p90: float
    p95: float
    p99: float
    sched_p50: float
    sched_p99: float
    server_queue_ms: float
    server_compute_ms: float
    mean_batch: float
    stable: bool
    client_bound: bool
    machine: dict[str, object]
    explained: tuple[Share, ...] = ()
    """Where the time of a mean request goes, where that was asked for."""


def serving(
    url: str,
    model: str,
    *,
    concurrency: int = 4,
    rate: float | None = None,
    rows: int = 1,
    window: float = 2.0,
    max_windows: int = 10,
    seed: int = 0,
    explained: bool = False,
    metrics: str | None = None,
) -> LoadReport:
    """Send requests to `model` on the Triton at `url` (host:port of gRPC) and measure latency and throughput.

    With `rate` (requests per second) the loop is open, else `concurrency` requests are kept in flight. `rows` is the
    number of rows per request; a fixed batch replaces it. `window` is in seconds; after `max_windows` the measurement
    ends even if it is not stable. `explained` adds where the time of a request goes (`request_time.py`); `metrics` is
    host:port of the server's metrics, by default that of a server of this user. The inputs are seeded random numbers.
    The requests and the server's statistics follow the KServe v2 protocol and Triton's statistics extension.

    Raises:
        InputError: an option is not positive, or the server has no such model.
        PlatformError: the server does not answer, or no request succeeded.
    """
    if concurrency < 1 or rows < 1 or max_windows < 1 or window <= 0 or (rate is not None and rate <= 0):
        raise InputError("bench serving: concurrency, rows, windows, window length and rate must be positive")
    if explained and metrics is None:
        metrics = next((one.metrics_url for one in services() if one.alive and one.url == url), None)
    runner = TritonRunner.from_reference(f"triton://{url}/{model}")
    rows = runner.batch or rows
    inputs = random_inputs(runner.inputs, rows, seed)
    before = statistics(url, model, metrics=metrics)
    cpu, wall = time.process_time(), time.perf_counter()
    samples = asyncio.run(_drive(url, model, runner.inputs, inputs, concurrency, rate, window, max_windows, seed))
    client_load = (time.process_time() - cpu) / (time.perf_counter() - wall)
    server = server_time(before, statistics(url, model, metrics=metrics))
    report = _report(url, model, samples, rows, concurrency, rate, window, client_load, server)
    if not explained:
        return report
    client = client_milliseconds(url, model, [spec.name for spec in runner.inputs], inputs)
    return replace(report, explained=explain(_mean_ms(samples), client, server))


async def _drive(
    url: str,
    model: str,
    specs: Sequence[TensorSpec],
    arrays: Sequence[NDArray[np.generic]],
    concurrency: int,
    rate: float | None,
    window: float,
    max_windows: int,
    seed: int,
) -> list[_Sample]:
    import tritonclient.grpc.aio as triton
    from tritonclient.utils import np_to_triton_dtype

    tensors = []
    for spec, array in zip(specs, arrays, strict=True):
        tensor = triton.InferInput(spec.name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    async with triton.InferenceServerClient(url) as client:
        load = _Load(client, model, tensors)
        for _ in range(3):
            await load.send(time.perf_counter())
        load.samples.clear()
        start = time.perf_counter()
        driver = asyncio.create_task(load.open_loop(rate, seed) if rate else load.closed_loop(concurrency))
        try:
            for index in range(max_windows):
                await asyncio.sleep(max(0.0, start + (index + 1) * window - time.perf_counter()))
                if driver.done() or (index + 1 >= _WINDOWS and _is_stable(load.samples, start, window, index + 1)):
                    break
        finally:
            load.stop = True
            await driver
    return load.samples


class _Load:
    """Sends requests and collects one sample per answer."""

    def __init__(self, client: Any, model: str, tensors: list[Any]) -> None:
        self.client, self.model, self.tensors = client, model, tensors
        self.samples: list[_Sample] = []
        self.stop = False

    async def send(self, due: float) -> None:
        from tritonclient.utils import InferenceServerException

        sent = time.perf_counter()
        try:
            await self.client.infer(self.model, self.tensors, client_timeout=30)
            ok = True
        except InferenceServerException:
            ok = False
        self.samples.append(_Sample(due, sent, time.perf_counter(), ok))

    async def closed_loop(self, concurrency: int) -> None:
        async def keep_sending() -> None:
            while not self.stop:
                await self.send(time.perf_counter())

        await asyncio.gather(*(keep_sending() for _ in range(concurrency)))

    async def open_loop(self, rate: float, seed: int) -> None:
        generator = np.random.default_rng(seed)
        due = time.perf_counter()
        pending: set[asyncio.Task[None]] = set()
        while not self.stop:
            due += float(generator.exponential(1 / rate))
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(self.send(due))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)


def _windows(samples: Sequence[_Sample], start: float, window: float, count: int) -> list[list[_Sample]]:
    found: list[list[_Sample]] = [[] for _ in range(count)]
    for sample in samples:
        index = int((sample.done - start) / window)
        if 0 <= index < count and sample.ok:
            found[index].append(sample)
    return found


def _is_stable(samples: Sequence[_Sample], start: float, window: float, count: int) -> bool:
    last = _windows(samples, start, window, count)[-_WINDOWS:]
    if len(last) < _WINDOWS or not all(last):
        return False
    counts = [len(part) for part in last]
    means = [float(np.mean([sample.done - sample.sent for sample in part])) for part in last]
    return max(counts) <= _STABLE * min(counts) and max(means) <= _STABLE * min(means)


def _mean_ms(samples: Sequence[_Sample]) -> float:
    return float(np.mean([sample.done - sample.sent for sample in samples if sample.ok])) * 1000


def _report(
    url: str,
    model: str,
    samples: Sequence[_Sample],
    rows: int,
    concurrency: int,
    rate: float | None,
    window: float,
    client_load: float,
    server: ServerTime,
) -> LoadReport:
    good = [sample for sample in samples if sample.ok]
    if not good:
        raise PlatformError(f"triton://{url}/{model}: none of {len(samples)} requests was answered without error")
    start = min(sample.due for sample in samples)
    count = max(1, int((max(sample.done for sample in good) - start) / window))
    kept = [sample for part in _windows(samples, start, window, count)[-_WINDOWS:] for sample in part] or good
    seconds = min(count, _WINDOWS) * window
    service = np.array([sample.done - sample.sent for sample in kept]) * 1000
    scheduled = np.array([sample.done - sample.due for sample in kept]) * 1000
    lag = float(np.percentile([sample.sent - sample.due for sample in kept], 99)) * 1000
    p50, p90, p95, p99 = (float(value) for value in np.percentile(service, [50, 90, 95, 99]))
    return LoadReport(
        url=url,
        model=model,
        mode=f"open loop, {rate:g} requests/s" if rate else f"closed loop, concurrency {concurrency}",
        rows_per_request=rows,
        requests=len(kept),
        errors=len(samples) - len(good),
        requests_per_second=len(kept) / seconds,
        crops_per_second=len(kept) * rows / seconds,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        sched_p50=float(np.percentile(scheduled, 50)),
        sched_p99=float(np.percentile(scheduled, 99)),
        server_queue_ms=server.queue,
        server_compute_ms=server.copies + server.compute,
        mean_batch=server.mean_batch,
        stable=_is_stable(samples, start, window, count),
        client_bound=client_load > 0.8 or lag > 0.05 * p99,
        machine=describe_machine(),
    )
