"""The examples in docstrings are run, and print what they say.

Each runs in a folder of its own that holds `model.onnx`, a fused network with a dynamic batch, and `fixed.onnx`, the
same network with a fixed batch of 2; `rtool`, `np`, `onnx` and `torch` are imported.
"""

import doctest
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import rtool
from rtool.finetune.finetuning import finetune

ROOT = Path(rtool.__file__).resolve().parent
EXAMPLES = (
    "bench.latency",
    "bench.parity",
    "config.show",
    "converters.build_architecture",
    "converters.embed_preprocessing",
    "converters.fold_batchnorm",
    "converters.load_bundle",
    "converters.load_model",
    "converters.measure_parity",
    "converters.onnx_to_torch",
    "converters.open_runner",
    "converters.restore_batchnorm",
    "converters.set_batch",
    "converters.simplify",
    "converters.to_half",
    "converters.write_back",
    "deploy",
    "embed",
    "evaluate",
    "export",
    "finetune.EmbeddingCache",
    "finetune.load_config",
    "finetune.open_dataset",
    "finetune.synthetic_people",
    "gallery",
    "inspect",
    "onnx2torch",
    "ops",
    "serving.validate_repository",
)


def network(batch: int | str) -> onnx.ModelProto:
    """Images [N, 3, 16, 8] to embeddings [N, 4]: a convolution that absorbed a BatchNorm, Relu, mean over pixels."""
    draw = np.random.default_rng(0)
    weights = {
        "onnx::Conv_10": draw.normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32),
        "onnx::Conv_11": draw.normal(0, 0.1, 4).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", *weights], ["features"], name="/conv/Conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["features"], ["positive"], name="/relu/Relu"),
            helper.make_node("ReduceMean", ["positive"], ["embedding"], name="/ReduceMean", axes=[2, 3], keepdims=0),
        ],
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, 16, 8])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    onnx.save(network("batch"), tmp_path / "model.onnx")
    onnx.save(network(2), tmp_path / "fixed.onnx")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def public(name: str) -> object:
    found = rtool
    for part in name.split("."):
        found = getattr(found, part)
    return finetune if isinstance(found, ModuleType) else found


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_says(name: str, folder: Path):
    text = inspect.getdoc(public(name)) or ""
    names = {"np": np, "onnx": onnx, "rtool": rtool, "torch": torch}
    parsed = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert any(example.want for example in parsed.examples), "no example that prints"
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(parsed, out=report.append)
    assert result.failed == 0, "".join(report)


def test_every_example_in_the_source_is_run():
    sources = [
        path for room in ("converters", "finetune", "serving", "benchmarks") for path in (ROOT / room).rglob("*.py")
    ]
    with_examples = [
        name for path in sources for name in re.findall(r"^    Examples:$", path.read_text(), re.MULTILINE)
    ]
    assert len(with_examples) == len(EXAMPLES)


def with_short_examples() -> list[str]:
    """Modules with an example in a line of a docstring, without a heading: it needs nothing but its module."""
    rooms = [
        path for room in ("converters", "finetune", "serving", "benchmarks") for path in (ROOT / room).rglob("*.py")
    ]
    found = [path for path in rooms if re.search(r"^ *>>> ", _without_blocks(path.read_text()), re.MULTILINE)]
    return sorted(".".join(("rtool", *path.relative_to(ROOT).with_suffix("").parts)) for path in found)


def _without_blocks(text: str) -> str:
    return re.sub(r"^    Examples:\n(        .*\n)+", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", with_short_examples())
def test_a_short_example_prints_what_it_says(name: str):
    module = importlib.import_module(name)
    found = [test for test in doctest.DocTestFinder().find(module) if "Examples:" not in (test.docstring or "")]
    report: list[str] = []
    results = [doctest.DocTestRunner(verbose=False).run(test, out=report.append) for test in found]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0, "".join(report)


def test_examples_stand_last_and_below_their_heading():
    for name in EXAMPLES:
        text = inspect.getdoc(public(name)) or ""
        assert text.count(">>> ") == text.split("\nExamples:\n")[1].count(">>> "), name
