"""`--batch auto` takes the batch that is fastest, and gives way when memory is short."""

import pytest

from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import InputError
from rtool.finetune.embedding.batch_size import fitting_batch

SMALL = Preprocessing(2, 2)


class Device:
    """A GPU whose batch takes `seconds(size)`, and that holds `most` images."""

    def __init__(self, seconds, most=10**6):
        self.seconds, self.most, self.now, self.tried = seconds, most, 0.0, []

    def embed_at(self, size, pixels):
        assert pixels.shape == (size, 2, 2, 3)
        self.tried.append(size)
        if size > self.most:
            raise InputError("m: torch refused inputs of shape ... (CUDA out of memory. Tried to allocate 2 GiB)")
        self.now += self.seconds(size)

    def batch(self, fixed=None, device="cuda:0"):
        return fitting_batch(self.embed_at, SMALL, fixed, device, clock=lambda: self.now)


def test_it_doubles_while_that_pays():
    assert Device(lambda size: max(size, 256) / 1000).batch() == 256


def test_nine_per_cent_more_do_not_pay():
    assert Device(lambda size: size ** (1 - 0.12)).batch() == 64  # 2 ** 0.12 = 1.087


def test_it_stops_where_memory_ends():
    assert Device(lambda size: 1.0, most=200).batch() == 128


def test_it_halves_where_64_do_not_fit():
    assert Device(lambda size: 1.0, most=9).batch() == 8


def test_no_memory_for_one_image_is_an_error():
    with pytest.raises(InputError, match="single image"):
        Device(lambda size: 1.0, most=0).batch()


def test_a_cpu_and_a_fixed_batch_are_not_tried():
    device = Device(lambda size: 1.0)
    assert (device.batch(device="cpu"), device.batch(fixed=16)) == (64, 16)
    assert not device.tried


def test_another_error_is_not_taken_for_lack_of_memory():
    def embed_at(size, pixels):
        raise InputError("m: torch refused inputs of shape [64, 3, 2, 2] (size mismatch)")

    with pytest.raises(InputError, match="size mismatch"):
        fitting_batch(embed_at, SMALL, None, "cuda:0")
