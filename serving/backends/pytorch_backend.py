"""Triton's `pytorch` back end in Python, for the embedded server, which has no C++ one: TorchScript models.

The server loads this file as `backends/pytorch/model.py`; it runs inside Triton's Python stub. A repository with
`backend: "pytorch"` is served unmodified, and the standard container serves the same repository with the C++ back end.
Keys of `parameters` and the meaning of names follow https://github.com/triton-inference-server/pytorch_backend; with a
value that is not supported the model does not load.

TorchScript is code. The file is checked record by record and torch gets what was checked: the readers of rtool
(`converters/files/torch_archives`) lie beside this file as the package `rtool_readers`.

Not done: BYTES tensors, a dictionary as input, sequence batching, compiled programs (`platform: "torch_aoti"`).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from model_file_backend import (  # type: ignore[import-not-found]  # lies beside this file
    ModelFileBackend,
    parameters_of,
    published_content,
)
from rtool_readers.converters.files.torch_archives.scripts import (  # type: ignore[import-not-found]
    load_script,
)
from rtool_readers.converters.files.torch_archives.torch_names import meant_positions  # type: ignore[import-not-found]

__all__ = ["TritonPythonModel"]

Rows = dict[str, np.ndarray[Any, Any]]

_OF_CPP = ("ENABLE_JIT_EXECUTOR", "ENABLE_JIT_PROFILING", "ENABLE_TENSOR_FUSER")
_NUMBERS = {"INTER_OP_THREAD_COUNT": torch.set_num_interop_threads, "INTRA_OP_THREAD_COUNT": torch.set_num_threads}


class TritonPythonModel(ModelFileBackend):  # type: ignore[misc]  # lies beside this file, so its type is not known
    """One instance of one model version: a TorchScript module on one device."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the module that `args` describes; the message of an exception becomes that of the failed load.

        Raises:
            ValueError: the configuration asks for a type, parameter or GPU that is not supported here, or the file is
                not the one that the version's manifest names.
        """
        config = json.loads(args["model_config"])
        self.begin(args["model_name"], config)
        if config.get("platform") == "torch_aoti":
            raise ValueError("platform torch_aoti is machine code, which only the C++ back end runs; use a container")
        self._flags(parameters_of(config))
        self._device = _device(args["model_instance_kind"], int(args["model_instance_device_id"]))
        path = _model_path(args, config)
        content = published_content(path, args)
        module, _ = load_script(path, content=content if isinstance(content, bytes) else None)
        self._module = module.eval().to(self._device)
        self._inputs = _arguments(module, [entry["name"] for entry in config["input"]])
        self._results = meant_positions(self._outputs)

    def compute(self, arrays: Rows) -> list[np.ndarray[Any, Any]]:
        """The outputs of one run, in the order of the configuration.

        Raises:
            ValueError: the model returns fewer results than are configured, or something else than tensors.
        """
        tensors = [self._tensor(arrays[name]) for name in self._inputs]
        with torch.inference_mode(self._inference), torch.jit.optimized_execution(self._optimised):  # type: ignore[attr-defined]
            result = self._module(*tensors) if self._inference else self._without_gradients(tensors)
        results = result if isinstance(result, tuple) else (result,)
        if max(self._results) >= len(results) or not all(isinstance(one, torch.Tensor) for one in results):
            raise RuntimeError(f"the model returns {len(results)} results, {len(self._results)} are configured")
        found = [results[position].detach().cpu().numpy() for position in self._results]
        if self._cleans:
            torch.cuda.empty_cache()
        return found

    def _without_gradients(self, tensors: Sequence[torch.Tensor]) -> Any:
        with torch.no_grad():
            return self._module(*tensors)

    def _tensor(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what arrives from the server may be marked as not to be written
            return torch.from_numpy(array).to(self._device)

    def _flags(self, parameters: Mapping[str, str]) -> None:
        if others := [key for key in _OF_CPP if key in parameters]:
            raise ValueError(f"{', '.join(others)} belongs to the C++ back end; serve this model with a container")
        self._inference = _flag(parameters, "INFERENCE_MODE", default=True)
        self._optimised = not _flag(parameters, "DISABLE_OPTIMIZED_EXECUTION", default=False)
        self._cleans = _flag(parameters, "ENABLE_CACHE_CLEANING", default=False) and torch.cuda.is_available()
        torch.backends.cudnn.enabled = not _flag(parameters, "DISABLE_CUDNN", default=False)
        for key, use in _NUMBERS.items():
            if key in parameters:
                use(int(parameters[key]))


def _flag(parameters: Mapping[str, str], key: str, *, default: bool) -> bool:
    value = parameters.get(key, str(default)).lower()
    if value not in ("true", "false"):
        raise ValueError(f"parameters: {key} expects true or false, got {value!r}")
    return value == "true"


def _device(kind: str, index: int) -> torch.device:
    if kind != "GPU":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("instance_group asks for KIND_GPU, but torch finds no GPU; serve configs/cpu.pbtxt")
    return torch.device("cuda", index)


def _arguments(module: Any, names: Sequence[str]) -> list[str]:
    """The configured names in the order of the arguments of `forward`.

    Raises:
        ValueError: they do not name each argument once.
    """
    taken = [one.name for one in module._c._get_method("forward").schema.arguments if one.name != "self"]
    positions = meant_positions(names, taken)
    if sorted(positions) != list(range(len(taken))):
        raise ValueError(f"inputs {', '.join(names)} do not name each argument of the model once ({', '.join(taken)})")
    return [name for _, name in sorted(zip(positions, names, strict=True))]


def _model_path(args: Mapping[str, str], config: Mapping[str, Any]) -> str:
    name = config.get("default_model_filename") or "model.pt"
    return os.path.join(args["model_repository"], args["model_version"], name)
