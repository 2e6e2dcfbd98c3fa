"""Triton's `onnxruntime` back end in Python, for the embedded server, which has no C++ one.

The server loads this file as `backends/onnxruntime/model.py`; it runs inside Triton's Python stub and imports
nothing of rtool. A repository with `backend: "onnxruntime"` is served unmodified, and the standard container serves the
same repository with the C++ back end. Keys of `parameters` follow
https://github.com/triton-inference-server/onnxruntime_backend#model-config-options; with a value that
is not supported the model does not load.

Not done: BYTES tensors, sequence batching, TensorRT, decoupled responses.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from triton_tensors import failed, from_triton, to_triton  # type: ignore[import-not-found]  # lies beside this file

__all__ = ["TritonPythonModel"]

Request = Any
Response = Any
Rows = dict[str, np.ndarray[Any, Any]]

_CUDA_KEYS = (
    "arena_extend_strategy",
    "cudnn_conv_algo_search",
    "do_copy_in_default_stream",
    "gpu_mem_limit",
)
_SEND_SECONDS = 1.0
_CUDNN_SEARCH = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
_ARENA_STRATEGY = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class TritonPythonModel:
    """One instance of one model version: an ONNX Runtime session."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Return the configuration unchanged; rtool writes complete ones."""
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session that `args` describes; the message of an exception becomes that of the failed load.

        Raises:
            ValueError: the configuration asks for a type, accelerator or GPU that this back end does not support here,
                or the weights are not those that the version's manifest names.
        """
        config = json.loads(args["model_config"])
        self._times = _Times(args["model_name"])
        self._batched = config["max_batch_size"] > 0
        self._outputs = [output["name"] for output in config["output"]]
        _refuse_types_without_numpy(config)
        content = published_content(_model_path(args, config), args)
        asked = providers(args["model_instance_kind"], int(args["model_instance_device_id"]), config)
        self._session = ort.InferenceSession(content, session_options(config), providers=asked)
        if len(asked) > 1 and "CUDAExecutionProvider" not in self._session.get_providers():
            raise ValueError(
                "instance_group asks for KIND_GPU, but ONNX Runtime's CUDA provider cannot be loaded here; "
                "it needs a GPU, and the CUDA and cuDNN that it was built for"
            )

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answer every request: merged along axis 0 when the model has a dynamic batch, else in one run per request."""
        began = time.perf_counter()
        responses: list[Response | None] = [None] * len(requests)
        inputs: dict[int, Rows] = {}
        for index, request in enumerate(requests):
            try:
                inputs[index] = {tensor.name(): from_triton(tensor) for tensor in request.inputs()}
            except Exception as error:
                responses[index] = failed(error)
        for group in self._groups(inputs):
            for index, response in self._run_group(group, inputs, requests):
                responses[index] = response
        self._times.executed(time.perf_counter() - began, len(requests))
        return [response if response is not None else failed("not executed") for response in responses]

    def _groups(self, inputs: Mapping[int, Rows]) -> Iterable[list[int]]:
        if not self._batched:
            return [[index] for index in inputs]
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, arrays in inputs.items():
            key = tuple(sorted((name, array.dtype.str, array.shape[1:]) for name, array in arrays.items()))
            groups.setdefault(key, []).append(index)
        return groups.values()

    def _run_group(
        self, group: list[int], inputs: Mapping[int, Rows], requests: Sequence[Request]
    ) -> Iterable[tuple[int, Response]]:
        if len(group) == 1:
            index = group[0]
            return [(index, self._run_one(inputs[index], requests[index]))]
        try:
            merged = {name: np.concatenate([inputs[index][name] for index in group]) for name in inputs[group[0]]}
            results = self._compute(merged, len(group))
        except Exception:
            # One bad request must not fail the others: run each alone.
            return [(index, self._run_one(inputs[index], requests[index])) for index in group]
        rows = [len(next(iter(inputs[index].values()))) for index in group]
        edges = np.cumsum([0, *rows])
        return [
            (index, _answer(requests[index], self._outputs, [result[start:end] for result in results]))
            for index, start, end in zip(group, edges[:-1], edges[1:], strict=True)
        ]

    def _run_one(self, arrays: Rows, request: Request) -> Response:
        try:
            return _answer(request, self._outputs, self._compute(arrays, 1))
        except Exception as error:
            return failed(error)

    def _compute(self, arrays: Rows, requests: int) -> list[np.ndarray[Any, Any]]:
        began = time.perf_counter()
        results: list[np.ndarray[Any, Any]] = self._session.run(self._outputs, arrays)
        self._times.computed(time.perf_counter() - began, requests)
        return results


class _Times:
    """Counters `rtool_backend_request_seconds{model, kind}` on the metrics port, for `rtool bench serving --explain`.

    As in Triton's statistics, every request of a batch counts the whole batch's time: in ONNX Runtime (session), and in
    this back end altogether (execute); `requests` says how many. An increment is a call to the server's process, so
    that they are gathered and sent once a second.
    """

    def __init__(self, model: str) -> None:
        self._family = pb_utils.MetricFamily(  # kept alive: Triton removes the metrics with their family
            name="rtool_backend_request_seconds",
            description="Time in rtool's back end, summed over requests",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        kinds = ("execute", "session", "requests")
        self._metrics = {kind: self._family.Metric(labels={"model": model, "kind": kind}) for kind in kinds}
        self._pending = dict.fromkeys(kinds, 0.0)
        self._sent = time.perf_counter() - _SEND_SECONDS

    def executed(self, seconds: float, requests: int) -> None:
        self._pending["execute"] += seconds * requests
        self._pending["requests"] += requests
        if time.perf_counter() - self._sent >= _SEND_SECONDS:
            for kind, metric in self._metrics.items():
                metric.increment(self._pending[kind])
                self._pending[kind] = 0.0
            self._sent = time.perf_counter()

    def computed(self, seconds: float, requests: int) -> None:
        self._pending["session"] += seconds * requests


def session_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    """The session options of a model configuration; ONNX Runtime's defaults where it states none.

    Raises:
        ValueError: a graph optimisation level other than -1, 1 or 2.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    parameters = _parameters(config)
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
    parameters = _parameters(config)
    options: dict[str, Any] = {"device_id": device}
    options |= {key: parameters[key] for key in _CUDA_KEYS if key in parameters}
    if "cudnn_conv_algo_search" in options:
        options["cudnn_conv_algo_search"] = _CUDNN_SEARCH[options["cudnn_conv_algo_search"]]
    if "arena_extend_strategy" in options:
        options["arena_extend_strategy"] = _ARENA_STRATEGY[options["arena_extend_strategy"]]
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def _parameters(config: Mapping[str, Any]) -> dict[str, str]:
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def _refuse_types_without_numpy(config: Mapping[str, Any]) -> None:
    refused = [
        f"{tensor['name']} ({tensor['data_type']})"
        for tensor in (*config["input"], *config["output"])
        if tensor["data_type"] in ("TYPE_STRING", "TYPE_BF16")
    ]
    if refused:
        raise ValueError(f"the embedded server cannot carry {', '.join(refused)}; serve this model with a container")


def _model_path(args: Mapping[str, str], config: Mapping[str, Any]) -> str:
    name = config.get("default_model_filename") or "model.onnx"
    path = os.path.join(args["model_repository"], args["model_version"], name)
    # A model with external data is a folder model.onnx/ that holds a model.onnx.
    return os.path.join(path, "model.onnx") if os.path.isdir(path) else path


def published_content(path: str, args: Mapping[str, str]) -> str | bytes:
    """What to open: the bytes of the file, after comparing them with the SHA-256 in the version's manifest.

    Without a manifest, or for a model in several files, the path is returned.

    Raises:
        ValueError: it is not the file that was published.
    """
    manifest = os.path.join(args["model_repository"], args["model_version"], "manifest.json")
    if not os.path.isfile(manifest):
        return path
    with open(manifest, encoding="utf-8") as text:
        stated = json.load(text).get("sha256")
    if not isinstance(stated, str):
        return path
    with open(path, "rb") as file:
        content = file.read()
    found = hashlib.sha256(content).hexdigest()
    if found != stated:
        raise ValueError(
            f"{path} is not the file that was published: sha256 {found[:16]}..., manifest.json says {stated[:16]}...; "
            "publish it again, or roll back with `rtool deploy --rollback`"
        )
    return content


def _answer(request: Request, names: Sequence[str], arrays: Sequence[np.ndarray[Any, Any]]) -> Response:
    wanted = set(request.requested_output_names())
    tensors = [to_triton(name, array) for name, array in zip(names, arrays, strict=True) if name in wanted]
    return pb_utils.InferenceResponse(output_tensors=tensors)
