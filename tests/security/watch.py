"""Writes hostile files, opens each under an audit hook, and reports what happened: `watch.py FOLDER [--honest]`.

Run as a program of its own, because an audit hook cannot be removed. With `--honest` only the honest files are opened,
which shows what opening costs in system calls anyway.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from other_files import arrays, bundles, data_sets, models, repositories, texts
from payloads import PLANTED, TOKEN, Case
from torch_files import network, programs, scripts, state_dicts

from rtool.cli.main import run
from rtool.converters.batchnorm.calibration import Calibration
from rtool.converters.batchnorm.calibration_state import load_state
from rtool.converters.bundles.bundle import load_bundle
from rtool.converters.bundles.reference import load_model
from rtool.converters.files.array_files import read_arrays
from rtool.converters.inspection.inspecting import inspect
from rtool.converters.lowering.conversion import onnx_to_torch
from rtool.converters.preprocessing.requests import read_request
from rtool.converters.zoo.cells.genotype import read_genotype
from rtool.converters.zoo.cells.latency_table import read_latency_table
from rtool.errors import RtoolError
from rtool.finetune.config.files import load_config
from rtool.finetune.config.foreign.params_json import convert_params
from rtool.finetune.config.foreign.recognition import convert_foreign
from rtool.finetune.data.formats.sources import open_dataset
from rtool.finetune.data.image_files import UnreadableImageError, decode_image
from rtool.finetune.network.weights import load_weights
from rtool.finetune.runs.checkpoints import load_progress
from rtool.serving.repository.repository import ModelFolder
from rtool.serving.repository.validation import validate_repository

EVENTS = """
os.system os.exec os.posix_spawn os.fork os.forkpty subprocess.Popen pickle.find_class socket.connect socket.bind
socket.getaddrinfo ctypes.dlopen os.remove os.rename os.link os.symlink os.chmod shutil.rmtree
"""
FORBIDDEN = frozenset(EVENTS.split())
seen: list[str] = []
watching = False


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what opening a file must not do."""
    if not watching:
        return
    if event in FORBIDDEN or (event == "import" and arguments[0] == PLANTED):
        seen.append(f"{event} {arguments!r}"[:200])
    elif event == "exec" and _has_token(arguments[0]):
        seen.append(f"exec of a file's text: {arguments[0]!r}"[:200])
    elif event == "open" and _writes(*arguments):
        seen.append(f"open for writing: {arguments[0]!r}"[:200])


def _writes(path: Any, mode: Any, flags: Any) -> bool:
    writing = isinstance(mode, str) and set(mode) & set("wax+")
    creating = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    return bool(writing or creating) and str(path) != os.devnull and not isinstance(path, int)


def _has_token(code: Any) -> bool:
    if not isinstance(code, types.CodeType):
        return False
    return any(
        TOKEN in value if isinstance(value, str) else _has_token(value) for value in (*code.co_consts, *code.co_names)
    )


def _repository(path: Path) -> None:
    problems = validate_repository(path)
    ModelFolder(path / "evil").manifest(1)
    if any("config.pbtxt" in str(problem) for problem in problems):
        raise RtoolError(str(problems[0]))


def _data_set(path: Path) -> None:
    data = open_dataset(path)
    for index in range(len(data.images)):
        data.images[index]


OPENERS: dict[str, Callable[[Path], Any]] = {
    "exported program": load_model,
    "TorchScript": load_model,
    "ONNX": lambda path: (inspect(path), onnx_to_torch(path)),
    "bundle": load_bundle,
    "run folder": load_model,
    "state_dict": lambda path: load_weights(network(), path),
    "safetensors": lambda path: load_weights(network(), path),
    "checkpoint": load_progress,
    "calibration state": lambda path: load_state(Calibration({}), path, "model"),
    "model repository": _repository,
    "configuration": load_config,
    "params.json": convert_params,
    "other trainers' configuration": convert_foreign,
    "preprocessing": lambda path: read_request(str(path)),
    "genotype": read_genotype,
    "latency table": read_latency_table,
    "arrays": read_arrays,
    "image": decode_image,
    "tar shards": _data_set,
    "verification pairs": _data_set,
    "manifest": _data_set,
    "RecordIO": _data_set,
}


CANARIES: dict[tuple[str, str], Callable[[Path], Any]] = {
    ("exported program", "pickled_weight"): torch.export.load,
    ("exported program", "samples_archive"): torch.export.load,
    ("exported program", "program_guard"): lambda path: torch.export.load(path).module(),
    ("exported program", "program_sizes"): torch.export.load,
    ("configuration", "apply"): lambda path: yaml.unsafe_load(path.read_text(encoding="utf-8")),
    ("arrays", "objects.npz"): lambda path: np.load(path, allow_pickle=True)["a"],
    ("verification pairs", "payload"): lambda path: pickle.loads(path.read_bytes()),
}
"""What the libraries themselves do with some of the files: the payloads are live, and the hook sees them."""


def made(folder: Path, marker: Path) -> Iterator[Case]:
    for make in (programs, scripts, state_dicts, models, bundles, repositories, texts, arrays, data_sets):
        place = folder / make.__name__
        place.mkdir()
        yield from make(place, marker)


def opened(case: Case) -> tuple[str, str]:
    """How opening ended, and its message."""
    try:
        OPENERS[case.kind](case.path)
    except (RtoolError, UnreadableImageError) as error:
        return "refused", str(error)
    except BaseException:
        return "traceback", traceback.format_exc()[-2000:]
    return "opened", ""


def by_command(case: Case) -> tuple[int | None, str]:
    if not case.command:
        return None, ""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = run([str(case.path) if word == "FILE" else word for word in case.command])
    return code, text.getvalue()[-500:]


def _canary(case: Case, marker: Path) -> dict[str, Any]:
    global watching
    seen.clear()
    watching = True
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        CANARIES[case.kind, case.name](case.path)
    watching = False
    result = {"kind": case.kind, "name": case.name, "seen": list(seen), "marker": marker.exists()}
    marker.unlink(missing_ok=True)
    return result


def main(folder: Path, honest: bool) -> None:
    global watching
    marker = folder / "MARKER"
    plant = folder / "planted"
    plant.mkdir()
    (plant / f"{PLANTED}.py").write_text(f"open({str(marker)!r}, 'w').close()\ndef run(): pass\n", encoding="utf-8")
    sys.path.insert(0, str(plant))
    os.chdir(plant)
    cases = list(made(folder, marker))
    order = sorted(cases, key=lambda case: case.name != "honest")  # lazy imports are over before the first hostile file
    for case in [case for case in order if case.name == "honest"]:
        opened(case)
    for kind in ("configuration", "verification pairs"):
        with contextlib.suppress(Exception):
            OPENERS[kind](folder / "missing.bin")
    by_command(Case("ONNX", "honest", folder / "models/honest.onnx", command=("inspect", "FILE")))
    sys.addaudithook(hook)
    report = []
    for case in [case for case in order if case.name == "honest"] if honest else order:
        seen.clear()
        watching = True
        outcome, message = opened(case)
        code, text = by_command(case)
        watching = False
        report.append(
            {
                "kind": case.kind, "name": case.name, "refused": case.refused, "outcome": outcome, "message": message,
                "code": code, "text": text, "seen": list(seen), "marker": marker.exists(),
            }
        )  # fmt: skip
        marker.unlink(missing_ok=True)
    canaries = (
        []
        if honest or "--no-canaries" in sys.argv
        else [_canary(case, marker) for case in cases if (case.kind, case.name) in CANARIES]
    )
    (folder / "canaries.json").write_text(json.dumps(canaries, indent=1), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--honest" in sys.argv)
