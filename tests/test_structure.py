"""The house stays in order: arrows one way, no circles, small rooms, public names that exist, cheap imports."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import rtool

ROOT = Path(rtool.__file__).resolve().parent
ROOMS = ("cli", "benchmarks", "serving", "finetune", "converters")
FOUNDATION = {"cache_folder", "errors", "fetching", "lazy", "version"}

# What is inside a room, from the ground up, one tuple per storey: a sub-room imports from storeys below its own, never
# from one beside or above it; files of one storey may import each other. What is not named here comes last.
STOREYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "converters": (
        ("records",),
        ("files", "operators", "reference"),
        ("graphs", "runtime", "zoo"),
        ("passes", "preprocessing"),
        ("precision", "lowering"),
        ("batchnorm",),
        ("weights",),
        ("bundles",),
        ("exporting", "inspection"),
    ),
    "converters/lowering": (
        ("exact",),
        (
            "graph_builder",
            "names",
            "operation",
            "registry",
            "schema_check",
            "shape_numbers",
            "subgraphs",
            "values",
        ),
        ("elementwise", "layers", "tensors"),
    ),
    "converters/passes": (("constants",), ("batching",)),
    "finetune": (
        ("config", "processes"),
        ("data",),
        ("embedding", "losses"),
        ("network",),
        ("matching",),  # below evaluation, which scores pairs by it
        ("evaluation", "runs"),
        ("distillation",),
        ("training",),
        ("search",),
        ("finetuning",),
        ("worker",),
    ),
    "serving": (
        ("client", "releases"),
        ("repository",),
        ("publishing",),
        ("server",),
        ("cluster", "service"),
        ("gallery",),
    ),
    "serving/gallery": (
        ("inputs", "stages"),
        ("tracks",),
        ("people",),
        ("settings", "models", "found"),
        ("embedding", "files", "model_facts", "settings_file", "adaptation_report"),
        ("finding",),
        ("galleries",),
        ("adaptation",),
    ),
    "benchmarks": (
        ("places", "machine", "references"),
        ("server_statistics",),
        ("request_time",),
        ("compare", "load", "timing"),
        ("operators",),
        (
            "conversion",
            "distillation",
            "evaluation",
            "export",
            "gallery",
            "occlusion",
            "robustness",
            "searching",
            "serving_drills",
            "training",
            "whole_flow",
        ),
    ),
}
MOST_FILES = 15
TABLES = {f"rtool{room}" for room in ("", ".converters", ".finetune", ".finetune.data", ".serving", ".benchmarks")}
"""Packages whose `__init__` is a table of public names, loaded on use; nothing is imported through them inside."""


def source_files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("rtool", *(parts[:-1] if parts[-1] == "__init__" else parts)))


@cache
def known_modules() -> frozenset[str]:
    return frozenset(map(module_name, [*source_files(), *ROOT.glob("*.py")]))


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules of the package that a file imports, anywhere in it: inside functions, and for type checkers too."""
    package = ("rtool", *path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = ".".join((*base, *filter(None, (node.module or "").split("."))))
            found |= {name if (name := f"{full}.{alias.name}") in known_modules() else full for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(name for name in found if name == "rtool" or name.startswith("rtool."))


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_never_point_back_up_the_house(path: Path):
    room = path.relative_to(ROOT).parts[0]
    allowed = set(ROOMS[ROOMS.index(room) :]) | FOUNDATION
    assert {name.split(".")[1] for name in imports(path) if "." in name} <= allowed


def storey(folder: str, module: str) -> tuple[str, int] | None:
    """The room of `folder` in which `module` lies, and its height; None for what lies elsewhere or has no place."""
    prefix = f"rtool.{folder.replace('/', '.')}."
    if not module.startswith(prefix):
        return None
    room = module.removeprefix(prefix).split(".")[0]
    height = next((index for index, rooms in enumerate(STOREYS[folder]) if room in rooms), None)
    return (room, len(STOREYS[folder]) if height is None else height)


@pytest.mark.parametrize("folder", STOREYS)
def test_rooms_import_only_from_the_storeys_below(folder: str):
    wrong = []
    for path in source_files():
        own = storey(folder, module_name(path))
        if own is None or path.name == "__init__.py":
            continue
        for imported in sorted(imports(path)):
            other = storey(folder, imported)
            if other is None or other[0] == own[0]:
                continue
            files = all((ROOT / folder / f"{room}.py").exists() for room in (own[0], other[0]))
            if other[1] > own[1] or (other[1] == own[1] and not files):
                wrong.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert not wrong


def test_every_folder_has_its_storey():
    for folder in STOREYS:
        named = {room for rooms in STOREYS[folder] for room in rooms}
        found = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
        if folder == "serving":
            found -= {"backends"}  # run inside the server, import nothing of ours
        assert found <= named, folder


def test_no_module_is_in_a_circle():
    graph = {module_name(path): imports(path) - TABLES for path in source_files()}
    order: list[str] = []
    state: dict[str, str] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == "done" or name not in graph:
            return
        assert state.get(name) != "open", " -> ".join((*trail[trail.index(name) :], name))
        state[name] = "open"
        for imported in sorted(graph[name]):
            visit(imported, (*trail, name))
        state[name] = "done"
        order.append(name)

    for name in graph:
        visit(name, ())
    assert len(order) == len(graph)


@pytest.mark.parametrize("folder", sorted({path.parent for path in source_files()}), ids=str)
def test_a_room_holds_at_most_fifteen_files(folder: Path):
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MOST_FILES


def test_no_function_is_longer_than_sixty_lines_and_no_file_than_four_hundred():
    long = []
    for path in source_files():
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        long += [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60
        ]
    assert not long


def test_no_test_file_is_longer_than_four_hundred_lines():
    lengths = {path.relative_to(ROOT): path.read_text().count("\n") for path in (ROOT / "tests").rglob("*.py")}
    assert {str(path): lines for path, lines in lengths.items() if lines > 400} == {}


def test_a_test_lies_where_what_it_tests_lies():
    folders = {path.parent.relative_to(ROOT) for path in source_files()} | {Path("gpu"), Path(".")}
    tests = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert tests <= folders


def packages_in_tree() -> set[str]:
    folders = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    return {"rtool", *(".".join(("rtool", *folder.parts)) for folder in folders)}


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
