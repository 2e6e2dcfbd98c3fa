"""The house stays in order: arrows one way, rooms listed for the wheel, public names real, importing cheap."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rtool

ROOT = Path(rtool.__file__).resolve().parent
ROOMS = ("cli", "benchmarks", "serving", "finetune", "converters")
FOUNDATION = {"errors", "lazy", "version"}


def source_files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported_rooms(path: Path) -> set[str]:
    """First names below the package that a file imports, relatively or absolutely, anywhere in it."""
    package = ("rtool", *path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = (*base, *(node.module or "").split("."))
            names = [".".join((*filter(None, full), alias.name)) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("rtool.") and "." in name}
    return found


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_never_point_back_up_the_house(path: Path):
    room = path.relative_to(ROOT).parts[0]
    allowed = set(ROOMS[ROOMS.index(room) :]) | FOUNDATION
    assert imported_rooms(path) <= allowed


def packages_in_tree() -> set[str]:
    folders = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    return {"rtool", *(".".join(("rtool", *folder.parts)) for folder in folders)}


def test_every_package_is_listed_for_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings["tool"]["setuptools"]["packages"]) == packages_in_tree()


def test_every_module_imports_and_its_public_names_exist():
    for package in sorted(packages_in_tree()):
        module = importlib.import_module(package)
        for info in pkgutil.iter_modules([str(Path(module.__file__).parent)], f"{package}."):
            if info.name in ("rtool.tests", "rtool.__main__") or info.name.startswith("rtool.serving.backends."):
                continue  # the back ends import Triton's own module and run only inside the server
            child = importlib.import_module(info.name)
            for name in getattr(child, "__all__", ()):
                assert getattr(child, name) is not None or name in vars(child), f"{info.name}.{name}"


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import rtool", "import rtool.cli.main", "import rtool.serving", "import rtool.serving.client"],
)
def test_importing_does_not_load_torch(statement: str):
    assert "torch" not in modules_after(statement)


def test_help_loads_neither_torch_nor_onnx_nor_numpy():
    loaded = modules_after("from rtool.cli.main import run; run(['--help'])")
    assert not loaded & {"torch", "onnx", "onnxruntime", "numpy", "rich"}
