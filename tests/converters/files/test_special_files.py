"""A pipe where a file should be is refused before it is opened: opening it would wait for ever."""

import os

import pytest

from rtool.converters import load_bundle
from rtool.converters.bundles.weights_header import WeightsHeader
from rtool.converters.files.model_bytes import open_model
from rtool.converters.files.torch_archives.program_records import read_program
from rtool.converters.files.torch_archives.script_records import read_script
from rtool.converters.weights.state_dict_files import read_state_dict
from rtool.errors import InputError


def header(path):
    with WeightsHeader.opened(path):
        pass


@pytest.mark.parametrize("reader", [open_model, read_program, read_script, read_state_dict, header])
def test_a_pipe_is_refused(reader, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is a pipe, a socket or a device; save what it gives to a file"):
        reader(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["graph.onnx", "weights.safetensors"])
def test_a_pipe_in_a_bundle_is_refused(name, model_file, tmp_path):
    from rtool.converters import onnx2torch

    bundle = onnx2torch(model_file, tmp_path / "m.rtool").output
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    with pytest.raises(InputError, match=f"{name}: is a pipe"):
        load_bundle(bundle)
