"""The wheel: what ships and what stays out, both named here, and that an installed wheel works in another folder."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import rtool

ROOT = Path(rtool.__file__).resolve().parent

SHIPS = ("benchmarks/operators", "benchmarks/whole_flow", "cli", "converters", "finetune", "serving")
"""Rooms that ship with everything below them; of `benchmarks` and of the root, the files beside their `__init__`."""
STAYS_OUT = (
    "benchmarks/conversion",
    "benchmarks/distillation",
    "benchmarks/evaluation",
    "benchmarks/export",
    "benchmarks/gallery",
    "benchmarks/robustness",
    "benchmarks/occlusion",
    "benchmarks/searching",
    "benchmarks/serving_drills",
    "benchmarks/training",
)
"""Studies: they need a checkout, its examples and its dated results."""
DATA = {
    "py.typed",
    "benchmarks/whole_flow/report.html.j2",
    "examples/demo.yaml",
    "examples/models/osnet_x0_25_synthetic.onnx",
    "examples/models/osnet_x0_25_synthetic.onnx.manifest.json",
    "serving/gallery/files/logic.js",
    "serving/gallery/files/page.css",
    "serving/gallery/files/page.html.j2",
    "serving/gallery/files/page.js",
}
"""Files that are not Python: `rtool demo` needs its recipe, model and template; a gallery its page."""

FEW_STEPS = (
    "epochs=1",
    "steps_per_epoch=2",
    "data.train=synthetic-people:identities=16,images=8,seed=11,cameras=1",
    "data.evaluate=synthetic-people:identities=8,images=8,seed=12,cameras=1",
    "model.calibration_images=64",
)


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def package_folders() -> set[str]:
    """Folders below the root that are packages, as `a/b`."""
    rooms = {room.split("/")[0] for room in (*SHIPS, *STAYS_OUT)}
    found = {path.parent.relative_to(ROOT) for room in rooms for path in (ROOT / room).rglob("__init__.py")}
    return {path.as_posix() for path in found}


def below(folder: str, rooms: tuple[str, ...]) -> bool:
    return any(folder == room or folder.startswith(f"{room}/") for room in rooms)


def shipped_folders() -> set[str]:
    return {"benchmarks", *(folder for folder in package_folders() if below(folder, SHIPS))}


def shipped_files() -> set[str]:
    folders = (ROOT, *(ROOT / folder for folder in shipped_folders()))
    return {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.glob("*.py")} | DATA


def test_every_room_ships_or_stays_out():
    unnamed = {folder for folder in package_folders() if not below(folder, (*SHIPS, *STAYS_OUT))}
    assert unnamed == {"benchmarks"}
    assert all((ROOT / room / "__init__.py").is_file() for room in (*SHIPS, *STAYS_OUT))


def test_the_package_list_is_what_ships():
    listed = settings()["packages"]
    assert sorted(listed) == sorted({"rtool", *(f"rtool.{folder.replace('/', '.')}" for folder in shipped_folders())})


def test_every_file_that_is_not_python_is_package_data():
    assert set(settings()["package-data"]["rtool"]) == DATA
    assert all((ROOT / name).is_file() for name in DATA)
    beside_modules = {
        path.relative_to(ROOT).as_posix()
        for folder in shipped_folders()
        for path in (ROOT / folder).iterdir()
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert beside_modules <= DATA


def imported(name: str) -> set[str]:
    """Modules and names that a file imports, as `rtool.a.b`."""
    package = ["rtool", *Path(name).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_what_ships_imports_nothing_that_stays_out():
    studies = tuple(f"rtool.{room.replace('/', '.')}" for room in STAYS_OUT)
    assert {
        f"{name} imports {module}"
        for name in shipped_files() - DATA
        for module in imported(name)
        if module.startswith(studies)
    } == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree, because setuptools ships what an earlier build left in `build/`."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
    source = folder / "source"
    source.mkdir()
    rooms = {room.split("/")[0] for room in (*SHIPS, *STAYS_OUT)} | {"examples", "model_repository", "tests"}
    for room in sorted(rooms):
        shutil.copytree(ROOT / room, source / room, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy2(path, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*command, "--wheel-dir", folder, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_what_ships_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {f"rtool/{name}" for name in shipped_files()}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that has only the wheel; a path file lends it the dependencies that are installed.

    Path files of the lending environment are not read, so an editable rtool there does not come along.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet"]
    done = subprocess.run([*command, wheel], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    lent = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (packages / "dependencies.pth").write_text("\n".join(lent) + "\n")
    return folder / "bin"


def run_there(command: list[object], folder: Path, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_installed_wheel_converts_deploys_and_checks(installed, tmp_path):
    place = run_there([installed / "python", "-c", "import rtool; print(rtool.__file__)"], tmp_path).strip()
    assert Path(place).is_relative_to(installed.parent)
    model = ROOT / "examples/models/osnet_x0_25_synthetic.onnx"
    tool = installed / "rtool"
    run_there([tool, "onnx2torch", model, "-o", "m.rtool", "--quiet"], tmp_path)
    assert (tmp_path / "m.rtool/model.py").is_file()
    run_there([tool, "deploy", model, "--name", "m", "--repository", "models", "--batch", "16", "--quiet"], tmp_path)
    run_there([tool, "deploy", "--packer-for", "m", "--name", "pack", "--repository", "models", "--quiet"], tmp_path)
    assert "problems  0" in run_there([tool, "serve", "models", "--check"], tmp_path)
    (tmp_path / "models/m/config.pbtxt").write_text("nonsense")
    run_there([tool, "serve", "models", "--check"], tmp_path, code=1)


@pytest.mark.slow
def test_an_installed_wheel_runs_the_demo(installed, tmp_path):
    program = f"from rtool.benchmarks import demo; print(demo('run', overrides={FEW_STEPS!r}).report)"
    assert "run/report.html" in run_there([installed / "python", "-c", program], tmp_path)
    assert (tmp_path / "run/summary.json").is_file()
