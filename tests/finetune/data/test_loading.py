"""Batch workers that are lost: a lack of memory is reported as that, a crash stays a crash."""

import os
import queue
import signal

import numpy as np
import pytest
from PIL import Image

from rtool.errors import PlatformError
from rtool.finetune.config.config import AugmentConfig
from rtool.finetune.data import loading
from rtool.finetune.data.dataset import Dataset
from rtool.finetune.data.image_files import EncodedImages
from rtool.finetune.data.loading import EpochSamples, TrainingPixels, iterate_batches, lost_workers_named

WAITING = "DataLoader worker (pid(s) 7, 8) exited unexpectedly"
KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "
SHARED = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of"
CRASHED = "DataLoader worker (pid 7) is killed by signal: Segmentation fault. "
ENDED = "DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost due to multiprocessing. "


@pytest.mark.parametrize(
    ("message", "cause", "expected"),
    [
        (KILLED, None, "a batch worker was killed (signal 9); the machine may be out of memory; lower data.workers"),
        (WAITING, RuntimeError(KILLED), "a batch worker was killed (signal 9)"),
        (WAITING, queue.Empty(), "a batch worker ended unexpectedly; the machine may be out of memory"),
        (SHARED, None, "a batch worker found no shared memory; make /dev/shm larger"),
    ],
)
def test_a_worker_that_lacked_memory_is_reported(message, cause, expected):
    with pytest.raises(PlatformError) as raised, lost_workers_named():
        raise RuntimeError(message) from cause
    assert str(raised.value).startswith(expected)


@pytest.mark.parametrize(
    ("message", "cause"),
    [(CRASHED, None), (WAITING, RuntimeError(CRASHED)), (ENDED, None), (WAITING, RuntimeError(ENDED)), ("other", None)],
)
def test_a_worker_that_crashed_and_other_errors_stay_what_they_are(message, cause):
    with pytest.raises(RuntimeError) as raised, lost_workers_named():
        raise RuntimeError(message) from cause
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EOFError(), PlatformError),
        (ConnectionResetError("reset by peer"), PlatformError),
        (EOFError("Caught EOFError in DataLoader worker process 0."), EOFError),
    ],
)
def test_a_connection_that_breaks_off_is_a_worker_that_was_killed(monkeypatch, error, kind):
    """Seen before the process counts as dead, so torch does not say it."""

    def broken_off(*_, **__):
        raise error
        yield

    monkeypatch.setattr(loading, "DataLoader", broken_off)
    with pytest.raises(kind):
        next(iterate_batches(None, np.zeros((1, 1), np.int64), slice(None), workers=1))


def kill_this_process(image: Image.Image) -> np.ndarray:
    """As the machine does when it runs out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return np.asarray(image)


def test_torch_says_it_in_these_words(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "0.png")
    images = EncodedImages(1, lambda _: (tmp_path / "0.png").read_bytes())
    dataset = Dataset("d", images, np.zeros(1, np.int64), np.full(1, -1), ("0",))
    samples = EpochSamples(TrainingPixels(dataset, kill_this_process, None), AugmentConfig(flip=0), (0.0,), 0, 0)
    expected = r"^a batch worker (was killed \(signal 9\)|ended unexpectedly); the machine may be out of memory"
    with pytest.raises(PlatformError, match=expected), lost_workers_named():
        next(iterate_batches(samples, np.zeros((1, 1), np.int64), slice(None), workers=1))
