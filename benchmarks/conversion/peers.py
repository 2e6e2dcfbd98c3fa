"""The other converters, each in a process of its own, in an environment separate from rtool's.

`make_environment` creates `.peers/` in the checkout, because the other converters pin or import packages that must not
be installed beside rtool. A `Worker` runs one process of `conversion_worker.py`, sends it requests and reads replies; a
process that ends or does not answer in time counts as crashed and is restarted for the next request.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from ...errors import InputError
from ..operators.onnx_cases import Case
from ..places import PACKAGE
from .onnx_conformance import Status, compare_outputs

__all__ = ["PACKAGES", "TOOLS", "Worker", "judge", "make_environment", "peer_models", "peer_versions", "read_outputs"]

TOOLS = ("rtool", "onnx2torch", "onnx2pytorch", "pnnx")
PACKAGES = ("torch==2.13.0", "onnx==1.23.2", "numpy==2.4.6", "pnnx==20261020")
_WITHOUT_DEPENDENCIES = ("onnx2torch==1.5.15", "onnx2pytorch==0.6.0", "rapidocr-onnxruntime==1.4.4")
"""They require torchvision, whose builds lag behind torch, and other runtimes; of rapidocr only the models are used."""

_FOLDER = PACKAGE / ".peers"
_BITS = {torch.bfloat16: torch.int16}
_TIMEOUT = 60.0
"""Seconds within which a request must be answered."""


def make_environment() -> Path:
    """The Python interpreter of the peers' environment, which is created on first use.

    Raises:
        InputError: a package could not be installed.
    """
    python = _FOLDER / "bin" / "python"
    stamp = _FOLDER / ".installed"
    wanted = "\n".join((*PACKAGES, *_WITHOUT_DEPENDENCIES))
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    venv.create(_FOLDER, with_pip=True)
    for words in (PACKAGES, ("--no-deps", *_WITHOUT_DEPENDENCIES)):
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise InputError(
                f"{_FOLDER}: pip could not install the peers ({last[0]}); check the network, then try again"
            )
    stamp.write_text(wanted)
    return python


def peer_versions() -> dict[str, str]:
    """Package -> pinned version."""
    return dict(package.split("==", 1) for package in (*PACKAGES, *_WITHOUT_DEPENDENCIES))


def peer_models() -> Path:
    """The folder of detection, recognition and direction models in the package rapidocr."""
    (found,) = _FOLDER.glob("lib/python*/site-packages/rapidocr_onnxruntime/models")
    return found


class Worker:
    """One converter that answers requests; a context manager."""

    def __init__(self, tool: str, *, timeout: float = _TIMEOUT, command: list[str] | None = None) -> None:
        self.tool = tool
        self._timeout = timeout
        self._command = command or self._usual_command()
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory()

    def _usual_command(self) -> list[str]:
        python = sys.executable if self.tool == "rtool" else str(make_environment())
        return [python, "-P", str(Path(__file__).with_name("conversion_worker.py")), self.tool]

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one request; an error without `refused` if the process ended or did not answer."""
        if self._process is None:
            environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(dict(request)) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._lost("the process ended")
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self._timeout):
                return self._lost(f"no answer within {self._timeout:g} s")
        line = process.stdout.readline()
        if not line:
            return self._lost("the process ended")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def run(self, case: Case) -> tuple[dict[str, Any], list[torch.Tensor | str]]:
        """Convert the case's model and run it: the reply, and each output as a tensor or as its description."""
        request = self.request(case.model, case.inputs, do="run")
        reply = self.ask(request)
        return reply, read_outputs(request["outputs"], reply.get("kinds", ()))

    def request(self, model: onnx.ModelProto | Path, inputs: Mapping[str, Any], *, do: str) -> dict[str, Any]:
        """A request whose files are in this worker's own folder. `inputs`: graph input -> array.

        Raises:
            TypeError: torch lacks an element type.
        """
        folder = Path(self._folder.name)
        path = model if isinstance(model, Path) else folder / "model.onnx"
        if isinstance(model, onnx.ModelProto):
            path.write_bytes(model.SerializeToString())
        tensors = _tensors(onnx.load(path, load_external_data=False), inputs)
        types = [(name, str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()]
        arrays = {f"a{index}": _plain(tensor) for index, tensor in enumerate(tensors.values())}
        np.savez(folder / "inputs.npz", **arrays)
        return {
            "do": do,
            "model": str(path),
            "inputs": str(folder / "inputs.npz"),
            "types": types,
            "outputs": str(folder / "outputs.npz"),
        }

    def _lost(self, what: str) -> dict[str, Any]:
        self.close_process()
        return {"stage": "running", "error": f"crash: {what}", "refused": False}

    def close_process(self) -> None:
        """End the process; the next request starts a new one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_process()
        self._folder.cleanup()


def judge(case: Case, reply: Mapping[str, Any], outputs: list[torch.Tensor | str]) -> tuple[Status, str]:
    """The outcome of a reply and its reason: passed, refused (the tool itself says so), wrong or crashed."""
    if "error" in reply:
        detail = f"{reply['stage']}: {reply['error']}"
        return ("refused" if reply.get("refused") else "crashed"), detail
    return compare_outputs(case, outputs)


def read_outputs(path: str, kinds: list[str]) -> list[torch.Tensor | str]:
    """The saved outputs as tensors, bit for bit; for what was not a tensor, its description."""
    if not kinds:
        return []
    with np.load(path) as arrays:
        return [
            kind if kind.startswith("a ") else torch.from_numpy(arrays[f"a{index}"]).view(getattr(torch, kind))
            for index, kind in enumerate(kinds)
        ]


def _tensors(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The inputs as tensors of the element types that the graph declares."""
    from ...converters.lowering.values import torch_tensor

    declared = {value.name: ir.DataType(value.type.tensor_type.elem_type) for value in model.graph.input}
    return {
        name: torch_tensor(ir.Tensor(np.asarray(array), dtype=declared[name], name=name))
        for name, array in inputs.items()
    }


def _plain(tensor: torch.Tensor) -> Any:
    """The tensor's bits as an array of an element type that NumPy has."""
    if tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1:
        return tensor.view(torch.uint8).numpy()
    return tensor.view(_BITS.get(tensor.dtype, tensor.dtype)).numpy()
