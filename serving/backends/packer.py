"""A Triton model that lets clients send single crops to a model with a fixed batch.

Runs inside Triton's Python back end as `<packer>/1/model.py` and imports nothing of rtool. Triton's dynamic batcher
joins the requests; this model concatenates their rows, pads them to the batch by repeating the last row (a real row
keeps activations in their range), calls the target model once, and answers every request with its rows. Triton cannot
do this by itself: it never pads a batch, and an ensemble neither packs nor splits (server issues 7124 and 3527).

The call is asynchronous, so an instance collects its next batch while the target computes. Not done: a target with
several inputs of different batch axes, decoupled responses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from triton_tensors import failed, from_triton, to_triton  # type: ignore[import-not-found]  # lies beside this file

__all__ = ["TritonPythonModel"]

_INPUT_ERRORS = ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT", "onnx runtime error 2:")
"""As rtool's back end reports an input that its model refuses, and the C++ one."""

Rows = list[np.ndarray[Any, Any]]


class TritonPythonModel:
    """One instance: the target's name, its tensors and two counters."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the target's name and the batch, which is this model's `max_batch_size`."""
        config = json.loads(args["model_config"])
        self._target = config["parameters"]["TARGET_MODEL"]["string_value"]
        self._batch = int(config["max_batch_size"])
        self._inputs = [entry["name"] for entry in config["input"]]
        self._axes = [len(entry["dims"]) + 1 for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        self._family = _row_family()  # kept alive: Triton removes the metrics with their family
        self._real, self._padded = (
            self._family.Metric(labels={"model": args["model_name"], "kind": kind}) for kind in ("real", "padded")
        )

    async def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests that Triton joined; together they have at most one batch of rows.

        A request that is at fault fails alone: one of no rows, which Triton hands over without a batch axis, and one
        whose values the target refuses, for which each request of the batch is then asked by itself.
        """
        responses: list[Any] = [None] * len(requests)
        given: dict[int, Rows] = {}
        for index, request in enumerate(requests):
            try:
                given[index] = self._rows(request)
            except Exception as error:
                responses[index] = failed(error)
        for index, answer in await self._answer_all(given, requests):
            responses[index] = answer
        return responses

    async def _answer_all(self, given: Mapping[int, Rows], requests: Sequence[Any]) -> Iterable[tuple[int, Any]]:
        if not given:
            return []
        try:
            answers = await self._answer([requests[index] for index in given], list(given.values()))
        except Exception as error:
            if len(given) == 1:
                return [(index, failed(error)) for index in given]
            alone = [await self._answer_all({index: rows}, requests) for index, rows in given.items()]
            return [answer for answers in alone for answer in answers]
        return zip(given, answers, strict=True)

    async def _answer(self, requests: Sequence[Any], given: Sequence[Rows]) -> list[Any]:
        counts = [len(rows[0]) for rows in given]
        missing = self._batch - sum(counts)
        packed = [_pad(np.concatenate(arrays), missing) for arrays in zip(*given, strict=True)]
        results = await self._ask(packed)
        self._real.increment(sum(counts))
        self._padded.increment(missing)
        edges = np.cumsum([0, *counts])
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    to_triton(name, result[start:end])
                    for name, result in zip(self._outputs, results, strict=True)
                    if name in set(request.requested_output_names())
                ]
            )
            for request, start, end in zip(requests, edges[:-1], edges[1:], strict=True)
        ]

    def _rows(self, request: Any) -> Rows:
        by_name = {tensor.name(): tensor for tensor in request.inputs()}
        rows = [from_triton(by_name[name]) for name in self._inputs]
        counts = {len(array) if array.ndim == axes else 0 for array, axes in zip(rows, self._axes, strict=True)}
        if len(counts) != 1 or 0 in counts:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in zip(self._inputs, rows, strict=True))
            raise ValueError(f"each request needs one row or more, the same number in every input, got {shapes}")
        return rows

    async def _ask(self, packed: Rows) -> Rows:
        request = pb_utils.InferenceRequest(
            model_name=self._target,
            requested_output_names=self._outputs,
            inputs=[to_triton(name, array) for name, array in zip(self._inputs, packed, strict=True)],
            # Otherwise a target on a GPU answers with memory of the GPU, which NumPy cannot read.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = await request.async_exec()
        if response.has_error():
            raise _TargetError(f"{self._target}: {response.error().message()}", response.error().code())
        # Copied, because the memory belongs to the response.
        return [from_triton(pb_utils.get_output_tensor_by_name(response, name)).copy() for name in self._outputs]


class _TargetError(RuntimeError):
    """The target's error, with its status, so that the packer's clients see the same cause.

    Triton 24.10 gives a call from model to model INTERNAL for every error; what ONNX Runtime said of the input is left.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        of_input = any(words in message for words in _INPUT_ERRORS)
        self.triton_code = pb_utils.TritonError.INVALID_ARG if of_input else code


def _pad(rows: np.ndarray[Any, Any], missing: int) -> np.ndarray[Any, Any]:
    if missing < 0:
        raise ValueError(f"{len(rows)} rows exceed the target's batch of {len(rows) + missing}")
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows


def _row_family() -> Any:
    """Counters `rtool_packer_rows{model, kind}` on the metrics port: rows of requests (real) and padding (padded)."""
    return pb_utils.MetricFamily(
        name="rtool_packer_rows",
        description="Rows sent to the target model, real ones and padding",
        kind=pb_utils.MetricFamily.COUNTER,
    )
