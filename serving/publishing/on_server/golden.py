"""The outputs that a served model must reproduce: those of ONNX Runtime in this process on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError

__all__ = ["golden_outputs"]


def golden_outputs(
    model: Path, inputs: Mapping[str, NDArray[Any]], *, threads: int | None = None, outputs: Sequence[str] | None = None
) -> tuple[NDArray[Any], ...]:
    """The outputs of an ONNX file on the CPU, in graph order or in that of the names in `outputs`.

    `inputs` maps input names to arrays of the graph's shapes and dtypes. `threads` is the `intra_op_thread_count` of
    the model's configuration, so that sums are rounded in the same order as on the server.

    Raises:
        InputError: ONNX Runtime cannot open or run the file.
    """
    import onnxruntime

    from ....converters.runtime.session_model import session_model

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    given = session_model(model, options)
    try:
        session = onnxruntime.InferenceSession(given.content, options, providers=["CPUExecutionProvider"])
        results = session.run(list(outputs) if outputs is not None else None, dict(inputs))
    except Exception as error:  # onnxruntime raises many unrelated types
        raise InputError(f"{model}: ONNX Runtime cannot run it ({_first_line(error)}); re-export it") from error
    return tuple(np.asarray(result) for result in results)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
