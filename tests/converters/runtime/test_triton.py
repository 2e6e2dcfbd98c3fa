import socket

import pytest

from rtool.converters import open_runner
from rtool.converters.runtime.triton import TritonRunner
from rtool.errors import InputError, PlatformError


@pytest.mark.parametrize(
    "reference", ["triton://host/model", "triton://host:1/", "http://host:1/model", "triton://h:1/m/0"]
)
def test_a_malformed_reference_shows_the_right_form(reference):
    with pytest.raises(InputError, match="triton://host:port/model"):
        TritonRunner.from_reference(reference)


def test_a_reference_without_a_server_names_the_way_out():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        reference = f"triton://127.0.0.1:{unused.getsockname()[1]}/reid"
    with pytest.raises(PlatformError, match="rtool serve"):
        open_runner(reference)
