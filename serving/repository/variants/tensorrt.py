"""TensorRT through ONNX Runtime: `configs/trt.pbtxt`, served by `--config-name trt` in NVIDIA's container.

Engines are built for the GPU when the model loads, which takes minutes, and are kept in a folder named by the model's
SHA-256: ONNX Runtime names the files in it by graph, TensorRT version and compute capability, but not by weights. An
open batch gets a profile from one row to the largest batch. Precision is float32; `precision_mode` FP16 is an edit by
hand, which `deploy --url` then compares. The keys are those of Triton's onnxruntime_backend, "TensorRT Optimization";
with an unknown one the model does not load. Not tried: there was no GPU with TensorRT where this was written.
"""

from __future__ import annotations

from typing import Any

from ..graph_signature import GraphSignature

__all__ = ["CACHE_FOLDER", "add_tensorrt"]

CACHE_FOLDER = "/tmp/rtool-tensorrt"
"""Of the container, whose only writable folder is /tmp; mount a volume there to keep engines over restarts.

On a machine of several users anybody may make it first, and an engine is code: `server.engine_folder` refuses that."""

_WORKSPACE_BYTES = 1 << 30


def add_tensorrt(config: Any, signature: GraphSignature) -> None:
    """Make a GPU configuration, in place, compute by TensorRT; an accelerator for it that is there keeps its edits.

    The folder of the engines and the profiles are always those of this file.
    """
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    found = next((one for one in accelerators if one.name == "tensorrt"), None)
    if found is None:
        found = accelerators.add(name="tensorrt")
        found.parameters["precision_mode"] = "FP32"
        found.parameters["max_workspace_size_bytes"] = str(_WORKSPACE_BYTES)
    found.parameters["trt_engine_cache_enable"] = "true"
    found.parameters["trt_engine_cache_path"] = f"{CACHE_FOLDER}/{signature.sha256[:16]}"
    for key in ("min", "opt", "max"):
        found.parameters.pop(f"trt_profile_{key}_shapes", None)
    if config.max_batch_size > 0 and not any(-1 in tensor.dims[1:] for tensor in signature.inputs):
        for key, rows in (("min", 1), ("opt", config.max_batch_size), ("max", config.max_batch_size)):
            shapes = (f"{one.name}:{'x'.join(map(str, (rows, *one.dims[1:])))}" for one in signature.inputs)
            found.parameters[f"trt_profile_{key}_shapes"] = ",".join(shapes)
