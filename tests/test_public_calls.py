"""Every command is one Python call of the same name that returns a dataclass."""

import ast
import dataclasses
import inspect
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, UnionType

import click
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import rtool
from rtool.cli.main import cli
from rtool.errors import InputError
from rtool.finetune.finetuning import finetune
from rtool.serving import TritonServer
from rtool.serving.gallery.settings import GallerySettings


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = [".".join(path) for path in leaves(cli)]


def call_named(command: str) -> Callable[..., object]:
    found = rtool
    for part in command.split("."):
        found = getattr(found, part)
    return finetune if found is rtool.finetune else found


def test_the_tree_of_commands_is_walked_to_its_leaves():
    assert {"onnx2torch", "bench.parity", "config.show", "finetune"} <= set(COMMANDS)


def returned_by(command: str) -> object:
    return typing.get_type_hints(call_named(command))["return"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_call_of_the_same_name_that_returns_a_dataclass(command: str):
    call = call_named(command)
    assert callable(call)
    assert inspect.getdoc(call)
    returned = returned_by(command)
    results = typing.get_args(returned) if isinstance(returned, UnionType) else (returned,)
    assert all(dataclasses.is_dataclass(result) for result in results), returned


@pytest.mark.parametrize("group", ["bench", "config"])
def test_a_group_of_commands_is_a_module_of_these_functions_alone(group: str):
    commands = {command.removeprefix(f"{group}.") for command in COMMANDS if command.startswith(f"{group}.")}
    assert set(getattr(rtool, group).__all__) == commands


def test_the_room_finetune_is_called_like_its_function():
    assert isinstance(rtool.finetune, ModuleType)
    assert str(inspect.signature(rtool.finetune)) == str(inspect.signature(finetune))
    assert inspect.getdoc(type(rtool.finetune).__call__)


def test_every_public_name_of_the_package_exists():
    assert set(rtool.__all__) == set(dir(rtool))
    for name in rtool.__all__:
        assert getattr(rtool, name) is not None


def test_the_public_names_are_those_of_the_table_and_the_imports_for_type_checkers():
    assert {*rtool._PUBLIC, *rtool._MODULES, "__version__"} == set(rtool.__all__)
    tree = ast.parse(Path(rtool.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in block.body for alias in node.names}
    assert imported == set(rtool.__all__) - {"__version__"}


def test_importing_the_package_loads_no_library():
    code = "import sys, rtool; rtool.__all__; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "onnx", "numpy", "pydantic", "click"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Images [N, 3, 16, 8] to embeddings [N, 3]: a 1x1 convolution and a mean over the pixels."""
    mixing = numpy_helper.from_array(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), "mixing")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "mixing"], ["mixed"]),
            helper.make_node("ReduceMean", ["mixed"], ["embedding"], axes=[2, 3], keepdims=0),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])],
        [mixing],
    )
    path = tmp_path_factory.mktemp("public") / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


PEOPLE = "synthetic-people:identities=4,images=8,seed=2,size=16x8"

CALLS: dict[str, Callable[[Path, Path], object]] = {
    "inspect": lambda model, folder: rtool.inspect(model),
    "onnx2torch": lambda model, folder: rtool.onnx2torch(model, folder / "tiny.rtool"),
    "evaluate": lambda model, folder: rtool.evaluate(model, PEOPLE, preprocessing="imagenet"),
    "gallery": lambda model, folder: rtool.gallery(
        model, PEOPLE, folder / "out", settings=GallerySettings(preprocessing="imagenet")
    ),
    "embed": lambda model, folder: rtool.embed(model, PEOPLE, folder / "out.npz", preprocessing="imagenet"),
    "export": lambda model, folder: rtool.export(model, folder / "out.onnx"),
    "deploy": lambda model, folder: rtool.deploy(model, name="tiny", repository=folder, force=True),
    "bench.parity": lambda model, folder: rtool.bench.parity(model, model),
    "bench.latency": lambda model, folder: rtool.bench.latency([model], rounds=3, warmup=0),
    "config.show": lambda model, folder: rtool.config.show(),
    "config.check": lambda model, folder: rtool.config.check(rtool.config.show().config),
    "config.init": lambda model, folder: rtool.config.init(folder / "new.yaml"),
    "config.convert": lambda model, folder: rtool.config.convert(params(folder)),
    "ops": lambda model, folder: rtool.ops("Conv"),
    "doctor": lambda model, folder: rtool.doctor(),
}
ON_A_SERVER = {"serve", "bench.serving"}
CALLED_ELSEWHERE = {
    "adapt": "tests/serving/gallery/test_adaptation.py",
    "distil": "tests/finetune/distillation/test_distil_call.py",
    "search": "tests/finetune/search/test_search_call.py",
    "fetch": "tests/test_fetching.py",
    "bench.operations": "tests/benchmarks/test_cell_operations.py",
    "bench.search": "tests/benchmarks/test_search_comparison.py",
    "finetune": "tests/finetune/test_finetuning.py",
    "demo": "tests/benchmarks/whole_flow/test_flow.py",
}
"""Calls that take long or need a server of their own, and the tests that make them."""


def params(folder: Path) -> Path:
    path = folder / "params.json"
    path.write_text('{"optimizer": "sgd"}')
    return path


def test_every_call_is_made_here_or_where_it_is_said_to_be():
    assert {*CALLS, *ON_A_SERVER, *CALLED_ELSEWHERE} == set(COMMANDS)
    for command, path in CALLED_ELSEWHERE.items():
        assert f"{command}(" in (Path(__file__).parents[1] / path).read_text()


@pytest.mark.parametrize("command", CALLS)
def test_a_call_returns_what_its_annotation_says(command: str, model: Path, tmp_path: Path):
    assert isinstance(CALLS[command](model, tmp_path), returned_by(command))


MODELS = ("inspect", "onnx2torch", "evaluate", "embed", "export", "deploy", "bench.parity", "bench.latency")
"""Calls that open a model."""


@pytest.mark.parametrize("command", MODELS)
def test_a_name_that_no_file_can_have_is_refused(command: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"'a.x00b\.onnx': no file can have this name"):
        CALLS[command](Path("a\0b.onnx"), tmp_path)


@pytest.mark.parametrize("command", ["onnx2torch", "export", "deploy"])
def test_a_model_on_a_server_has_no_graph_to_work_on(command: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"triton:/.*: is a model on a server, which gives outputs but no graph"):
        CALLS[command]("triton://127.0.0.1:8001/m", tmp_path)


def test_the_calls_around_a_server_return_what_their_annotations_say(model: Path, tmp_path: Path):
    rtool.deploy(model, name="tiny", repository=tmp_path, batch="dynamic", force=True)
    loads = []

    def load_and_stop(server: TritonServer) -> None:
        loads.append(rtool.bench.serving(server.url, "tiny", window=0.1, max_windows=1))
        raise KeyboardInterrupt

    served = rtool.serve(tmp_path, http_port=0, grpc_port=0, metrics_port=0, on_ready=load_and_stop)
    assert isinstance(served, returned_by("serve"))
    assert isinstance(loads[0], returned_by("bench.serving"))


def test_settings_shown_from_python_may_be_overridden_without_a_file():
    assert rtool.config.show(overrides=["epochs=3"]).config.epochs == 3
    assert "arcface" in rtool.config.show(losses=True).text
