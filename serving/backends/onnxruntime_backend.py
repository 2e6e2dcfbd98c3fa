"""Triton's `onnxruntime` back end in Python, for the embedded server, which has no C++ one.

The server loads this file as `backends/onnxruntime/model.py`; it runs inside Triton's Python stub and imports
nothing of rtool. A repository with `backend: "onnxruntime"` is served unmodified, and the standard container serves the
same repository with the C++ back end. Keys of `parameters` follow
https://github.com/triton-inference-server/onnxruntime_backend#model-config-options; with a value that
is not supported the model does not load.

Not done: BYTES tensors, sequence batching, TensorRT, decoupled responses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from model_file_backend import (  # type: ignore[import-not-found]  # lies beside this file
    ModelFileBackend,
    parameters_of,
    published_content,
)

__all__ = ["TritonPythonModel"]

Rows = dict[str, np.ndarray[Any, Any]]

_CUDA_KEYS = (
    "arena_extend_strategy",
    "cudnn_conv_algo_search",
    "do_copy_in_default_stream",
    "gpu_mem_limit",
)
_CUDNN_SEARCH = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
_ARENA_STRATEGY = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class TritonPythonModel(ModelFileBackend):  # type: ignore[misc]  # lies beside this file, so its type is not known
    """One instance of one model version: an ONNX Runtime session."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session that `args` describes; the message of an exception becomes that of the failed load.

        Raises:
            ValueError: the configuration asks for a type, accelerator or GPU that this back end does not support here,
                or the weights are not those that the version's manifest names.
        """
        config = json.loads(args["model_config"])
        self.begin(args["model_name"], config)
        content = published_content(_model_path(args, config), args)
        asked = providers(args["model_instance_kind"], int(args["model_instance_device_id"]), config)
        self._session = ort.InferenceSession(content, session_options(config), providers=asked)
        if len(asked) > 1 and "CUDAExecutionProvider" not in self._session.get_providers():
            raise ValueError(
                "instance_group asks for KIND_GPU, but ONNX Runtime's CUDA provider cannot be loaded here; "
                "it needs a GPU, and the CUDA and cuDNN that it was built for"
            )

    def compute(self, arrays: Rows) -> list[np.ndarray[Any, Any]]:
        """The outputs of one run, in the order of the configuration."""
        results: list[np.ndarray[Any, Any]] = self._session.run(self._outputs, arrays)
        return results


def session_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    """The session options of a model configuration; ONNX Runtime's defaults where it states none.

    Raises:
        ValueError: a graph optimisation level other than -1, 1 or 2.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    parameters = parameters_of(config)
    if "intra_op_thread_count" in parameters:
        options.intra_op_num_threads = int(parameters["intra_op_thread_count"])
    if "inter_op_thread_count" in parameters:
        options.inter_op_num_threads = int(parameters["inter_op_thread_count"])
    if parameters.get("execution_mode") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    if "enable_mem_arena" in parameters:
        options.enable_cpu_mem_arena = parameters["enable_mem_arena"] == "1"
    if "enable_mem_pattern" in parameters:
        options.enable_mem_pattern = parameters["enable_mem_pattern"] == "1"
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    if level:
        if level not in _GRAPH_LEVELS:
            raise ValueError(f"optimization.graph.level: expected -1, 1 or 2, got {level}")
        options.graph_optimization_level = _GRAPH_LEVELS[level]
    return options


def providers(kind: str, device: int, config: Mapping[str, Any]) -> list[Any]:
    """The execution providers of one instance; a missing GPU is an error and never replaced by the CPU.

    Raises:
        ValueError: an execution accelerator is configured, or a GPU without a CUDA provider.
    """
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    asked = [
        entry["name"]
        for side in ("gpu_execution_accelerator", "cpu_execution_accelerator")
        for entry in accelerators.get(side, [])
    ]
    if asked:
        raise ValueError(f"execution accelerators {asked} need the C++ back end; serve this model with a container")
    if kind != "GPU":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ValueError(
            "instance_group asks for KIND_GPU, but this onnxruntime has no CUDA provider; install onnxruntime-gpu "
            "or serve configs/cpu.pbtxt (--config-name cpu)"
        )
    parameters = parameters_of(config)
    options: dict[str, Any] = {"device_id": device}
    options |= {key: parameters[key] for key in _CUDA_KEYS if key in parameters}
    if "cudnn_conv_algo_search" in options:
        options["cudnn_conv_algo_search"] = _CUDNN_SEARCH[options["cudnn_conv_algo_search"]]
    if "arena_extend_strategy" in options:
        options["arena_extend_strategy"] = _ARENA_STRATEGY[options["arena_extend_strategy"]]
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def _model_path(args: Mapping[str, str], config: Mapping[str, Any]) -> str:
    name = config.get("default_model_filename") or "model.onnx"
    path = os.path.join(args["model_repository"], args["model_version"], name)
    # A model with external data is a folder model.onnx/ that holds a model.onnx.
    return os.path.join(path, "model.onnx") if os.path.isdir(path) else path
