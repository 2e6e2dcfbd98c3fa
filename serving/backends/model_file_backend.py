"""What the back ends for model files share: requests joined to batches, counters, and the file that was published.

Lies beside their `model.py` inside the server, runs in Triton's Python stub, and imports nothing of rtool.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from triton_tensors import failed, from_triton, to_triton  # type: ignore[import-not-found]  # lies beside this file

__all__ = ["ModelFileBackend", "parameters_of", "published_content", "refuse_types_without_numpy"]

Request = Any
Response = Any
Rows = dict[str, np.ndarray[Any, Any]]

_SEND_SECONDS = 1.0
_ASK_EVERY = 8


class ModelFileBackend:
    """One instance of one model version; `compute` is what a back end adds."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Return the configuration unchanged; rtool writes complete ones."""
        return auto_complete_model_config

    def begin(self, model: str, config: Mapping[str, Any]) -> None:
        """Read what every back end needs of the configuration of `model`.

        Raises:
            ValueError: it has tensors of a type that NumPy lacks.
        """
        refuse_types_without_numpy(config)
        self._times = _Times(model)
        self._batched = config["max_batch_size"] > 0
        self._outputs = [output["name"] for output in config["output"]]
        self._unasked = _ASK_EVERY

    def compute(self, arrays: Rows) -> list[np.ndarray[Any, Any]]:
        """The outputs for one batch, in the order of the configuration."""
        raise NotImplementedError

    def execute(self, requests: Sequence[Request]) -> list[Response]:
        """Answer every request: merged along axis 0 when the model has a dynamic batch, else in one run per request."""
        began = time.perf_counter()
        responses: list[Response | None] = [None] * len(requests)
        inputs: dict[int, Rows] = {}
        for index, request in enumerate(requests):
            try:
                if self._given_up(request):
                    responses[index] = failed("cancelled by the client")
                    continue
                inputs[index] = {tensor.name(): from_triton(tensor) for tensor in request.inputs()}
            except Exception as error:
                responses[index] = failed(error)
        for group in self._groups(inputs):
            for index, response in self._run_group(group, inputs, requests):
                responses[index] = response
        self._times.executed(time.perf_counter() - began, len(requests))
        return [response if response is not None else failed("not executed") for response in responses]

    def _given_up(self, request: Request) -> bool:
        """Whether nobody waits for the answer: of a fixed batch, where no batcher drops such requests from the queue.

        To ask is a call to the server's process. So it is asked of every eighth request, and of each after one that was
        given up, until one was not.
        """
        if self._batched:
            return False
        self._unasked += 1
        if self._unasked < _ASK_EVERY:
            return False
        given_up = bool(request.is_cancelled())
        self._unasked = _ASK_EVERY if given_up else 0
        return given_up

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
        results = self.compute(arrays)
        self._times.computed(time.perf_counter() - began, requests)
        return results


class _Times:
    """Counters `rtool_backend_request_seconds{model, kind}` on the metrics port, for `rtool bench serving --explain`.

    As in Triton's statistics, every request of a batch counts the whole batch's time: in the runtime (session), and in
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


def parameters_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of a configuration by key."""
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def refuse_types_without_numpy(config: Mapping[str, Any]) -> None:
    """Refuse tensors that cannot become arrays.

    Raises:
        ValueError: there are some.
    """
    refused = [
        f"{tensor['name']} ({tensor['data_type']})"
        for tensor in (*config["input"], *config["output"])
        if tensor["data_type"] in ("TYPE_STRING", "TYPE_BF16")
    ]
    if refused:
        raise ValueError(f"the embedded server cannot carry {', '.join(refused)}; serve this model with a container")


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
