"""What the source imports is declared in pyproject.toml, and what is declared there is imported."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import rtool

ROOT = Path(rtool.__file__).resolve().parent
ROOMS = ("cli", "benchmarks", "serving", "finetune", "converters")
MODULES = {
    "pillow": "PIL",
    "protobuf": "google",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "onnxruntime-gpu": "onnxruntime",
    "pytest-timeout": "pytest_timeout",
    "types-pyyaml": "yaml",
}
"""Distribution -> the module it brings, where that is not its name."""
THROUGH_TORCH = {"onnxscript", "tensorboard"}
"""torch.onnx and torch.utils.tensorboard import these, and torch does not require them."""
ELSEWHERE = {"model_file_backend", "rtool_readers", "triton_python_backend_utils", "triton_tensors"}
"""Modules of Triton, inside whose processes `serving/backends` runs."""
PEERS = {"onnx2torch", "onnx2pytorch", "pnnx", "torchvision", "cv2"}
"""Other converters and decoders, which the workers of benchmarks import in environments of their own."""
TOOLS = {"ruff", "mypy", "setuptools", "pytest_timeout", "xdist", "pytest_xdist", "yaml"}
"""Of the extra `dev`: started by make, or read by such a tool, not imported."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def modules(requirements: list[str]) -> set[str]:
    names = (re.split(r"[<>=!~;\[ ]", requirement)[0].lower() for requirement in requirements)
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def imported(folders: list[Path]) -> set[str]:
    """Top-level modules that are imported, by statement or by name; those of the standard library left out."""
    found: set[str] = set()
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module or "")
            elif isinstance(node, ast.Call) and node.args and "import_module" in ast.unparse(node.func):
                named = node.args[0]
                found |= {named.value} if isinstance(named, ast.Constant) and isinstance(named.value, str) else set()
    return {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - {"rtool", ""}


REQUIRED = modules(PROJECT["dependencies"])
EXTRAS = {name: modules(listed) for name, listed in PROJECT["optional-dependencies"].items()}


@pytest.fixture(scope="module")
def source() -> set[str]:
    """Modules that the source imports; parsing it all takes two seconds."""
    return imported([ROOT / room for room in ROOMS]) - ELSEWHERE - PEERS


def test_what_the_source_imports_is_declared(source):
    offered = set().union(*(listed for name, listed in EXTRAS.items() if name != "dev"))
    assert source - REQUIRED - offered == set()


def test_what_is_declared_is_imported(source):
    assert REQUIRED - source == THROUGH_TORCH
    for name, listed in EXTRAS.items():
        if name != "dev":
            assert listed - source == set(), name


def test_what_the_tests_import_is_declared_too():
    tests = imported([ROOT / "tests"])
    assert EXTRAS["dev"] - tests - TOOLS == set()
    own = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {path.name for path in (ROOT / "tests").iterdir()}
    assert tests - REQUIRED - EXTRAS["dev"] - own - ELSEWHERE - PEERS == set()
