"""Decoding and inference at the same time: whole batches on several threads, results in order.

Each thread reads, decodes and resizes one batch after another, and then calls the model, which as many threads as the
model has lanes may do at once. A model in ONNX Runtime on a CPU has one thread for each call, and a lane more than
there are cores, where there are several: with as many, a core was idle while its thread waited for Python's lock (on
two cores, in turns, wall time was 1.17 to 1.25 times that of the parts, against 1.07 to 1.16). A GPU or a module of
torch has one lane, beside which the other threads decode; a server has some requests on their way. Pillow, NumPy, the
runtimes and the network release Python's lock while they work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from typing import TypeVar

__all__ = ["in_order"]

T = TypeVar("T")

_AHEAD = 3
"""Batches per thread that are begun before the first of them is asked for."""


def in_order(
    work: Callable[[Sequence[int], Semaphore], T], batches: Sequence[Sequence[int]], *, threads: int, lanes: int
) -> Iterator[T]:
    """The results of `work` on each batch, in the order of `batches`.

    Args:
        work: From image numbers and the semaphore that it holds while the model runs, to its result.
        batches: Image numbers.
        threads: That work at once.
        lanes: Of them, how many may run the model at once.

    Raises:
        Exception: what `work` raised first, in the order of the batches; the others are not begun then.
    """
    model = Semaphore(lanes)
    pool = ThreadPoolExecutor(threads, "embed")
    pending: deque[Future[T]] = deque()
    try:
        for batch in batches:
            if len(pending) >= _AHEAD * threads:
                yield pending.popleft().result()
            pending.append(pool.submit(work, batch, model))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
